"""Rows in flight: what the machine does meanwhile goes out of the comparison, what a size costs stays in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from penstock.bench import in_flight
from penstock.bench.bed import Bed

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)


class NoWorkers:
    """A bed that nothing runs on."""

    def stop_workers(self) -> None: ...


def measured(
    monkeypatch: pytest.MonkeyPatch, cost: Callable[[int, int], float], sizes: Sequence[int] = SIZES
) -> dict[str, Any]:
    """Three rounds where a record costs `cost` of its size and of how many turns were before."""

    class Told:
        idle = 0.0

        def __init__(self, _bed: Bed) -> None:
            self.turns = 0

        def warm_up(self, sizes: Sequence[int]) -> None: ...

        def turn(self, size: int) -> tuple[float, float]:
            self.turns += 1
            return cost(size, self.turns), 1.0

        def by_thread(self) -> dict[str, dict[str, float]]:
            return {}

    monkeypatch.setattr(in_flight, "Backlogs", Told)
    return in_flight.run_in_flight(cast(Bed, NoWorkers()), sizes, 3, lambda _line: None)


def test_a_machine_that_becomes_slower_all_the_time_changes_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, lambda _size, turn: 2.0 + 0.05 * turn)
    assert found["ratios"] == {str(size): [1.0] * 3 for size in SIZES}
    assert found["goals"][0]["measured"] == 0.0


def test_a_size_that_costs_more_is_told_in_spite_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, lambda size, turn: (2.0 + 0.05 * turn) * (1.2 if size == 10_000 else 1.0))
    assert found["ratios"]["10000"] == [1.2] * 3
    assert found["goals"][0]["measured"] == 0.2
    assert not found["goals"][0]["met"]


def test_a_size_that_costs_now_more_and_now_less_is_not_to_be_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, lambda size, turn: 1.0 + (size == 10_000_000) * turn / 10)
    (doubt,) = found["doubts"]
    assert "10,000,000 rows" in doubt
    assert measured(monkeypatch, lambda _size, _turn: 1.0, (10_000,))["doubts"] == []
