"""Small micro-batches share their records, and whoever reads those finds what each of them came to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worker_pieces import requests

from schemas.codec import Codec
from schemas.codes import Code
from schemas.records import BatchSummary, PredictionBatch
from stream_workers.fates import Fate
from stream_workers.ingest_rows import LogRecord, build, check
from stream_workers.ledger import Epoch, Ledger, Output
from stream_workers.log_writer import ENOUGH_BYTES, ENOUGH_ROWS, LogWriter
from stream_workers.monitor_windows import MICRO, Figures
from stream_workers.runs import Run

CODEC = Codec()
HERE = ("requests", 0)


def writer() -> LogWriter:
    return LogWriter(CODEC, "predictions", "summaries", "w")


def ran(name: str, numbers: Sequence[int], at: int = 2_000_000, rows_each: int = 1, **about: Any) -> Fate:
    """Requests that a model ran, with an output and a feature that hold their number."""
    rows = len(numbers) * rows_each
    given_: dict[str, Any] = {"features": [{"f": float(n)} for n in numbers]} if rows_each == 1 else {}
    piece = requests(numbers, rows_each, **given_)
    outputs = {"y": np.repeat(np.array(numbers, np.float32), rows_each)[:, None]}
    run = Run(dispatched=0.25, seconds=0.004, padded=1)
    scores = np.where(np.arange(rows) % 3 == 2, np.nan, np.arange(rows) / 8)
    plain = Fate(name, at, Code.OK, [piece], "cpu", run, (), [outputs], scores, {"f": (1, 0, rows)})
    return replace(plain, **about)


def refused(name: str, numbers: Sequence[int], at: int = 2_000_000, code: Code = Code.TOO_LARGE) -> Fate:
    return Fate(name, at, code, [requests(numbers)], messages=[f"no {n}" for n in numbers])


def decoded(outputs: Sequence[Output]) -> tuple[list[PredictionBatch], list[BatchSummary]]:
    log = [CODEC.decode(PredictionBatch, one.value) for one in outputs if one.topic == "predictions"]
    return log, [CODEC.decode(BatchSummary, one.value) for one in outputs if one.topic == "summaries"]


def committed(fates: Sequence[Fate]) -> list[Output]:
    """What an epoch of these holds when it is committed."""
    ledger, own = Ledger(), writer()
    epoch = ledger.admit({HERE: 1}, sum(fate.requests for fate in fates), 1)
    for fate in fates:
        ledger.finish(epoch, fate.requests, *own.put(epoch, fate))
    assert ledger.close() is epoch
    assert ledger.settled(epoch, 0)
    ledger.write(epoch)
    return epoch.outputs


def stored(log: Sequence[PredictionBatch]) -> list[tuple[Any, ...]]:
    """The rows that ClickHouse gets, but for the place in the log."""
    for one in log:
        check(one)
    table = build([LogRecord(n, 0, 0, one) for n, one in enumerate(log)], "l", 0).drop_columns(["log_offset"])
    return sorted(tuple(map(repr, row.values())) for row in table.to_pylist())


KINDS = {
    "one": ran,
    "three": partial(ran, rows_each=3),
    "late": partial(refused, code=Code.DEADLINE_EXCEEDED),
    "large": refused,
}
fates = st.lists(st.tuples(st.sampled_from([*KINDS]), st.integers(1, 4), st.integers(0, 10**6)), max_size=8)


@settings(deadline=None)
@given(fates)
def test_rows_and_figures_are_the_same_as_if_each_had_records_of_its_own(kinds: list[tuple[str, int, int]]) -> None:
    made = [
        KINDS[kind](f"b{place}", range(10 * place, 10 * place + count), 2_000_000 + after)
        for place, (kind, count, after) in enumerate(kinds)
    ]
    log, summaries = decoded(committed(made))
    assert len(log) == len(summaries) == len({kind for kind, _, _ in kinds})
    apart = [decoded(writer().written([fate])) for fate in made]
    if made:
        assert stored(log) == stored([record for records, _ in apart for record in records])
    alone = [summary for _, own in apart for summary in own]
    assert whole(summaries) == whole(alone)


def whole(summaries: Sequence[BatchSummary]) -> tuple[Figures, float]:
    """All figures of these; the sums of scores, which are rounded, by the side."""
    figures = sum((replace(Figures.of(one), score_micros=0) for one in summaries), Figures())
    return figures, round(math.fsum(one.score_sum + one.score_sum_squares for one in summaries), 9)


def test_a_summary_of_many_tells_the_mean_time_of_their_rows_and_how_many_they_were() -> None:
    _, (summary,) = decoded(committed([ran("a", [1], 2 * MICRO), ran("b", [2, 3, 4], 3 * MICRO)]))
    assert (summary.scored_at, summary.batches, summary.batch_id) == (2_750_000, 2, "a")


def test_what_is_large_is_written_at_once_and_by_itself() -> None:
    epoch, own = Epoch(0), writer()
    wide = {"y": np.zeros((1, ENOUGH_BYTES // 4), np.float32)}
    assert own.put(epoch, ran("small", [1]))[0] == []
    for large in (ran("rows", range(ENOUGH_ROWS)), ran("bytes", [1], outputs=[wide])):
        outputs, drafted = own.put(epoch, large)
        assert [summary.batch_id for summary in decoded(outputs)[1]] == [large.batch_id]
        assert drafted == 0
    assert len(epoch.drafts) == 1


def test_drafts_are_written_once_they_are_worth_a_record_and_count_as_held_until_then() -> None:
    epoch, own = Epoch(0), writer()
    held, written = 0, []
    for number in range(5):
        outputs, drafted = own.put(epoch, ran(f"b{number}", range(ENOUGH_ROWS // 4)))
        held += drafted
        written += outputs
        assert (held > 0) == bool(epoch.drafts)
    ((record,), (summary,)) = decoded(written)
    assert (record.rows, summary.batches, [one.batch_id for one in record.batches]) == (
        ENOUGH_ROWS, 4, ["b0", "b1", "b2", "b3"],
    )  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [
        ran("b", [2], pieces=[requests([2], variant="new", features=[{"f": 1.0}])]),
        ran("b", [2], pieces=[requests([2], experiment="e", features=[{"f": 1.0}])]),
        ran("b", [2], pieces=[requests([2], topic="pool", features=[{"f": 1.0}])]),
        ran("b", [2], device="cuda:0"),
        ran("b", [2], run=Run(0.0, 0.0, 0, "cached")),
        ran("b", [2], outputs=[{"y": np.zeros((1, 2), np.float32)}]),
        ran("b", [2], outputs=[{"y": np.zeros((1, 1), np.float64)}]),
        ran("b", [2], outputs=[{"z": np.zeros((1, 1), np.float32)}]),
        ran("b", [2], pieces=[requests([2], features=[{"f": "text"}])]),
        ran("b", [2], pieces=[requests([2], features=[{"f": 1.0, "made up": 2.0}])]),
        ran("b", [2], pieces=[requests([2])]),
        refused("b", [2]),
    ],
)
def test_what_would_lose_something_in_one_record_has_records_of_its_own(other: Fate) -> None:
    log, summaries = decoded(committed([ran("a", [1]), other, ran("c", [3])]))
    assert [[one.batch_id for one in record.batches] for record in log] == [["a", "c"], ["b"]]
    assert [summary.batches for summary in summaries] == [2, 1]
    assert all(record.features for record in log if record.batch_id == "a")


def test_a_draft_keeps_no_inputs() -> None:
    epoch, own = Epoch(0), writer()
    own.put(epoch, ran("a", [1]))
    (draft,) = epoch.drafts.values()
    assert [piece.inputs for fate in draft.fates for piece in fate.pieces] == [{}]  # type: ignore[attr-defined]


def test_what_is_forgotten_is_not_written() -> None:
    ledger, own = Ledger(), writer()
    epoch = ledger.admit({HERE: 2}, 2, 1)
    for number in range(2):
        ledger.finish(epoch, 1, *own.put(epoch, ran(f"b{number}", [number])))
        assert (ledger.held_bytes > 0) is (number == 0)
        ledger.halt()
    ledger.write(epoch)
    assert epoch.outputs == []
