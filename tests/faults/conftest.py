"""What every fault test needs: models, how often, and a place to say what was seen."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from fault_evidence import Verdict
from fault_models import fill
from fault_run import Report

ROUNDS = int(os.environ.get("PENSTOCK_FAULT_ROUNDS", "5"))
RATE = int(os.environ.get("PENSTOCK_FAULT_RATE", "200"))


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
def report(record_property: Callable[[str, object], None]) -> Report:
    """Keeps a line for the end of the run, which `tests/conftest.py` prints: what the test saw."""

    def keep(verdict: Verdict | None = None, **more: Any) -> None:
        facts = {**more, **(asdict(verdict) if verdict else {})}
        record_property("saw", json.dumps(facts))

    return keep
