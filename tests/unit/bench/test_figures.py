"""A benchmark's figures: medians, what makes them doubtful, and a pace that does not give way."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from penstock.bench.bed import Usage, usage_of
from penstock.bench.figures import Latency, Spread, doubts, slope
from penstock.bench.reply import paced


def test_a_spread_shows_its_middle_and_its_ends() -> None:
    spread = Spread((3.0, 1.0, 2.0))
    assert spread.to_json() == {"median": 2.0, "min": 1.0, "max": 3.0}
    assert spread.width == 1.0


def test_rounds_that_agree_leave_no_doubt_and_others_do() -> None:
    assert doubts(ratio=Spread((0.50, 0.52, 0.55))) == []
    (line,) = doubts(ratio=Spread((0.5, 0.5, 0.7)))
    assert line.startswith("ratio: rounds differ by 40%")


def test_too_few_rounds_are_a_doubt_of_their_own() -> None:
    (line,) = doubts(ratio=Spread((0.5, 0.5)))
    assert line.startswith("2 round(s)")


def test_latencies_come_out_in_milliseconds_with_the_lost_beside_them() -> None:
    found = Latency.of([i / 1000 for i in range(1, 102)])
    assert found.to_json() == {
        "count": 101, "lost": 0, "mean_ms": 51.0, "p50_ms": 51.0, "p99_ms": 100.0, "max_ms": 101.0
    }  # fmt: skip
    assert np.isnan(Latency.of([]).p50)


def test_a_lost_request_has_all_the_time_that_it_would_have_been_waited_for() -> None:
    found = Latency.of([0.001] * 98, lost=2)
    assert found.to_json() == {
        "count": 98, "lost": 2, "mean_ms": 200.98, "p50_ms": 1.0, "p99_ms": 10_000.0, "max_ms": 10_000.0
    }  # fmt: skip
    assert Latency.of([], lost=1).p50 == 10_000


def test_a_straight_line_has_its_slope_and_a_single_point_none() -> None:
    assert slope([0, 10, 20], [5, 25, 45]) == pytest.approx(2.0)
    assert slope([1], [5]) == 0.0


def test_a_stall_counts_for_every_request_that_it_met() -> None:
    async def ask(number: int) -> bool:
        if number == 0:
            time.sleep(0.3)  # noqa: ASYNC251 - the stall: the whole loop stands still
        return True

    found = asyncio.run(paced(100.0, 20, ask))
    assert found.count == 20
    # Due at 0, 10, .. 190 ms, and none of them could be answered before 300 ms: the last waited for 110 ms.
    assert found.p50 > 150
    assert found.worst >= 295


def test_what_never_came_back_is_counted_as_lost() -> None:
    async def ask(number: int) -> bool:
        return number % 2 == 0

    assert asyncio.run(paced(1000.0, 10, ask)).lost == 5


def test_a_pace_ends_when_it_is_told_to_and_counts_what_it_began() -> None:
    begun: list[int] = []

    async def ask(number: int) -> bool:
        begun.append(number)
        return number > 0

    found = asyncio.run(paced(1000.0, 1_000_000, ask, lambda: len(begun) >= 5))
    assert (found.count, found.lost) == (len(begun) - 1, 1)
    assert 5 <= len(begun) < 1000


def test_a_slow_answer_does_not_hold_up_the_next_request() -> None:
    began: list[float] = []

    async def ask(number: int) -> bool:
        began.append(time.perf_counter())
        await asyncio.sleep(0.2 if number == 0 else 0)
        return True

    asyncio.run(paced(100.0, 5, ask))
    assert began[-1] - began[0] < 0.15


def test_usage_adds_up_over_labels_and_is_told_by_the_row() -> None:
    samples = [
        ("process_cpu_seconds_total", {}, 4.0),
        ("penstock_inference_seconds_sum", {"model": "a"}, 0.5),
        ("penstock_inference_seconds_sum", {"model": "b"}, 1.5),
        ("penstock_batch_rows_sum", {"model": "a"}, 1_000_000.0),
        ("penstock_batch_rows_count", {"model": "a"}, 1000.0),
        ("penstock_publish_seconds_sum", {}, 1.0),
        ("penstock_commits_total", {}, 10.0),
        ("process_resident_memory_bytes", {}, 2.0**20),
    ]
    used = usage_of(samples).since(Usage(cpu=1.0))
    assert used.to_json() == {
        "cpu_us_per_row": 3.0,
        "inference_us_per_row": 2.0,
        "publish_us_per_row": 1.0,
        "rows_per_batch": 1000.0,
        "rows_per_commit": 100_000.0,
        "commit_ms": 100.0,
        "worker_rss_mib": 1.0,
    }
