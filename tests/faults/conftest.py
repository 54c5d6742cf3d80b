"""What every fault test needs: models, how often, and a place to say what was seen."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from fault_evidence import Verdict
from fault_models import fill
from fault_run import Report

ROUNDS = int(os.environ.get("PENSTOCK_FAULT_ROUNDS", "5"))
RATE = int(os.environ.get("PENSTOCK_FAULT_RATE", "200"))
_told: list[str] = []


@pytest.fixture(scope="session")
def rounds() -> int:
    """How often each fault strikes in a test (PENSTOCK_FAULT_ROUNDS)."""
    return ROUNDS


@pytest.fixture(scope="session")
def rate() -> int:
    """Requests a second meanwhile (PENSTOCK_FAULT_RATE)."""
    return RATE


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the models that are asked."""
    root = tmp_path_factory.mktemp("models")
    return fill(root / "store", root / "scratch")


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """Keeps a line for the end of the run: what the test saw."""

    def keep(verdict: Verdict | None = None, **more: Any) -> None:
        facts = {**more, **(asdict(verdict) if verdict else {})}
        _told.append(f"{request.node.name}: {json.dumps(facts)}")

    return keep


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the faults did to the load, for people to read."""
    for line in _told:
        terminalreporter.write_line(line)
