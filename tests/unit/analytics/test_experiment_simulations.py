"""Small versions of the simulated experiments: errors, power, coverage and broken splits are what is claimed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from analytics.always_valid import ConfidenceSequence
from benchmarks import experiments
from benchmarks.experiments import rng_for, simulate
from benchmarks.figures import Figure
from benchmarks.peeking import Watched, naive

# So many times the full number of runs: a few seconds together.
SCALES = {
    "false_positives": 0.1,
    "false_positives_as_operated": 0.025,
    "power": 0.1,
    "ratio": 0.03,
    "sample_ratio": 0.03,
    "sample_ratio_by_slice": 0.03,
    "sample_ratio_found": 0.05,
    "coverage": 0.02,
    "coverage_after_stopping": 0.02,
    "coverage_at_every_look": 0.1,
}


def test_every_simulation_has_a_small_version() -> None:
    assert SCALES.keys() == experiments.SIMULATIONS.keys()


@pytest.mark.parametrize("name", SCALES)
def test_what_is_claimed_holds(name: str) -> None:
    figures = simulate(name, SCALES[name])
    assert figures
    assert [figure.line() for figure in figures if not figure.holds] == []


def test_the_simulation_would_notice_a_test_that_peeks() -> None:
    rng = rng_for("a test that peeks")
    steps = rng.normal(size=(5_000, 14))
    information = np.broadcast_to(np.arange(1.0, 15.0), steps.shape)
    watched = Watched(np.cumsum(steps, axis=1) / information, information)
    share = naive(watched)
    assert Figure("naive", share, 5_000, "about", 0.22).holds
    assert not Figure("naive", share, 5_000, "at most", 0.05).holds
    # A sequence at four times its level is no longer safe at the level it claims.
    reach = np.vectorize(ConfidenceSequence(tuned_for=14.0, alpha=0.4).half_width)(information)
    loose = float((np.abs(watched.estimate) > reach).any(axis=1).mean())
    assert not Figure("loose", loose, 5_000, "at most", 0.05).holds


def test_figures_are_held_to_their_side_of_the_limit() -> None:
    assert Figure("", 0.051, 10_000, "at most", 0.05).holds
    assert not Figure("", 0.058, 10_000, "at most", 0.05).holds
    assert Figure("", 0.79, 10_000, "at least", 0.8).holds
    assert not Figure("", 0.78, 10_000, "at least", 0.8).holds
    assert not Figure("", 0.3, 10_000, "about", 0.22).holds


def test_a_run_writes_its_figures_with_date_and_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "figures.json"
    status = experiments.main(["--only", "coverage_at_every_look", "--scale", "0.05", "--output", str(path)])
    document = json.loads(path.read_text("utf-8"))
    assert status == 0
    assert document["benchmark"] == "experiments"
    assert document["date"]
    assert document["machine"]["versions"].keys() == {"numpy", "scipy"}
    assert len(document["figures"]) == 4
    assert all(figure["holds"] for figure in document["figures"])
    assert "4 of 4 figures hold" in capsys.readouterr().out
    # The same seed, the same figures.
    again = [figure.as_dict() for figure in simulate("coverage_at_every_look", 0.05)]
    assert again == document["figures"]


def test_a_figure_that_does_not_hold_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        experiments,
        "SIMULATIONS",
        {"broken": lambda _rng, _scale: iter([Figure("broken", 0.2, 10_000, "at most", 0.05)])},
    )
    assert experiments.main(["--scale", "0.01", "--output", str(tmp_path / "figures.json")]) == 1
