"""Small micro-batches share their records, and whoever reads those finds what each of them came to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worker_pieces import requests

from models.profile_bins import SAMPLED
from schemas.byte_columns import BytesColumn
from schemas.codec import Codec
from schemas.codes import Code
from schemas.records import BatchSummary, PredictionBatch, Tensor
from stream_workers.fates import Fate
from stream_workers.ingest_rows import LogRecord, build, check
from stream_workers.ledger import Epoch, Ledger, Output
from stream_workers.log_writer import ENOUGH_BYTES, ENOUGH_FATES, ENOUGH_ROWS, MOST_DRAFTS, LogWriter
from stream_workers.monitor_windows import MICRO, Figures
from stream_workers.runs import Run

CODEC = Codec()
QUARTER = ENOUGH_BYTES // 4
HERE = ("requests", 0)


def writer() -> LogWriter:
    return LogWriter(CODEC, "predictions", "summaries", "w")


def ran(name: str, numbers: Sequence[int], at: int = 2_000_000, rows_each: int = 1, **about: Any) -> Fate:
    """Requests that a model ran, with an output and, of one row, a feature that hold their number."""
    rows = len(numbers) * rows_each
    given_: dict[str, Any] = {"features": [{"f": float(n)} for n in numbers]} if rows_each == 1 else {}
    plain: dict[str, Any] = {
        "pieces": [requests(numbers, rows_each, **given_)],
        "device": "cpu",
        "run": Run(dispatched=0.25, seconds=0.004, padded=1),
        "outputs": [{"y": np.repeat(np.array(numbers, np.float32), rows_each)[:, None]}],
        "scores": np.where(np.arange(rows) % 3 == 2, np.nan, np.arange(rows) / 8),
        "histograms": {"f": (1, 0, rows)},
    }
    return Fate.of(name, at, Code.OK, **{**plain, **about})


def sparse(name: str, numbers: Sequence[int], at: int = 2_000_000) -> Fate:
    """Requests of which the first has a feature that is rare among many, and a text that others lack."""
    rare: dict[str, Any] = {"rare": 1.0, "text": f"ü{name}"}
    features = [rare, *({"f": float(n)} for n in numbers[1:])]
    texts = {"label": np.array([f"l{n}" for n in numbers], object), "unlogged": np.zeros((len(numbers), 999))}
    return ran(name, numbers, at, pieces=[requests(numbers, features=features)], outputs=[texts])


def refused(name: str, numbers: Sequence[int], at: int = 2_000_000, code: Code = Code.TOO_LARGE) -> Fate:
    return Fate.of(name, at, code, [requests(numbers)], messages=[f"no {n}" for n in numbers])


def decoded(outputs: Sequence[Output]) -> tuple[list[PredictionBatch], list[BatchSummary]]:
    log = [CODEC.decode(PredictionBatch, one.value) for one in outputs if one.topic == "predictions"]
    return log, [CODEC.decode(BatchSummary, one.value) for one in outputs if one.topic == "summaries"]


def committed(fates: Sequence[Fate]) -> list[Output]:
    """What an epoch of these holds when it is committed."""
    ledger, own = Ledger(), writer()
    epoch = ledger.admit({HERE: 1}, sum(fate.requests for fate in fates), 1)
    for fate in fates:
        ledger.finish(epoch, fate.requests, own.put(epoch, fate))
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
    "plain": lambda name, numbers, at: ran(name, numbers, at, pieces=[requests(numbers)]),
    "three": partial(ran, rows_each=3),
    "sparse": sparse,
    "late": partial(refused, code=Code.DEADLINE_EXCEEDED),
    "large": refused,
}
DAY = 86_400_000_000
# The last moments of a day, and the first of the next.
TIMES = (20_000 * DAY - 3_000_000, 20_000 * DAY - 5, 20_000 * DAY - 1, 20_000 * DAY, 20_000 * DAY + 9)
fates = st.lists(st.tuples(st.sampled_from([*KINDS]), st.sampled_from([1, 2, 9]), st.sampled_from(TIMES)), max_size=9)


@settings(deadline=None)
@given(fates)
def test_rows_and_figures_are_the_same_as_if_each_had_records_of_its_own(kinds: list[tuple[str, int, int]]) -> None:
    made = [
        KINDS[kind](f"b{place}", range(10 * place, 10 * place + count), at)
        for place, (kind, count, at) in enumerate(kinds)
    ]
    log, summaries = decoded(committed(made))
    # What has several rows a request, or no features, has the same columns as others of its kind; else names decide.
    most = len({(kind, count if kind == "sparse" else 0, at // 1_000_000) for kind, count, at in kinds})
    assert len(log) == len(summaries) <= most
    apart = [decoded(writer().written([fate])) for fate in made]
    if made:
        assert stored(log) == stored([record for records, _ in apart for record in records])
    alone = [summary for _, own in apart for summary in own]
    assert whole(summaries) == whole(alone)


def whole(summaries: Sequence[BatchSummary]) -> tuple[Figures, float]:
    """All figures of these; the sums of scores, which are rounded, by the side, and without samples of features."""
    figures = sum((replace(Figures.of(one), score_micros=0, features={}) for one in summaries), Figures())
    return figures, round(math.fsum(one.score_sum + one.score_sum_squares for one in summaries), 9)


def test_a_summary_of_many_tells_the_mean_time_of_their_rows_and_how_many_they_were() -> None:
    _, (summary,) = decoded(committed([ran("a", [1], 2_000_000), ran("b", [2, 3, 4], 2_400_000)]))
    assert (summary.scored_at, summary.batches, summary.batch_id) == (2_300_000, 2, "a")


@pytest.mark.parametrize(("rows", "kept"), [(SAMPLED // 2, 2), (SAMPLED // 3 * 2, 1), (2, 9)])
def test_features_are_counted_of_no_more_rows_than_of_one_batch(rows: int, kept: int) -> None:
    made = [ran(f"b{n}", [n], histograms={"f": (rows - 1, 0, 1), "g": (rows,)}) for n in range(9)]
    _, (summary,) = decoded(committed(made))
    assert summary.feature_histograms == {"f": (kept * (rows - 1), 0, kept), "g": (kept * rows,)}


def test_what_is_a_second_apart_is_told_apart() -> None:
    _, summaries = decoded(
        committed([ran("a", [1], 2 * MICRO - 1), ran("b", [2], 2 * MICRO), ran("c", [3], 3 * MICRO)])
    )
    assert [summary.scored_at for summary in summaries] == [2 * MICRO - 1, 2 * MICRO, 3 * MICRO]


@pytest.mark.parametrize("large", [{"outputs": [{"y": np.array(["x" * ENOUGH_BYTES], object)}]}, {}])
def test_what_is_large_is_written_at_once_and_by_itself(large: dict[str, Any]) -> None:
    epoch, own = Epoch(0), writer()
    assert own.put(epoch, ran("small", [1])) == []
    outputs = own.put(epoch, ran("large", [1] if large else range(ENOUGH_ROWS), **large))
    assert [summary.batch_id for summary in decoded(outputs)[1]] == ["large"]
    assert len(epoch.drafts) == 1


@pytest.mark.parametrize(
    ("each", "times"),
    [
        (lambda name: ran(name, range(ENOUGH_ROWS // 4)), 4),
        (lambda name: asked(name, features=[{"t": "x" * QUARTER}]), 4),
        (lambda name: asked(name, ids=BytesColumn.of([b"x" * QUARTER])), 4),
        (lambda name: Fate.of(name, 0, Code.MALFORMED, [requests([1])], messages=["x" * QUARTER]), 4),
    ],
)
def test_drafts_are_written_once_they_are_worth_a_record(each: Callable[[str], Fate], times: int) -> None:
    epoch, own = Epoch(0), writer()
    written = []
    for number in range(times + 1):
        assert written == [] or number == times
        written += own.put(epoch, each(f"b{number}"))
    ((record,), (summary,)) = decoded(written)
    assert [one.batch_id for one in record.batches] == [f"b{number}" for number in range(times)]
    assert summary.batches == times
    assert len(epoch.drafts) == 1


def test_ids_count_as_often_as_they_are_written() -> None:
    """Seventeen requests with long names and many rows came to a record of 122 MB, which one of them alone does not."""
    epoch, own, each = Epoch(0), writer(), 120
    ids = BytesColumn.of([b"x" * (ENOUGH_BYTES // each)])
    written = own.put(epoch, ran("a", [1], rows_each=each, pieces=[requests([1], each, ids=ids)]))
    assert [summary.batch_id for summary in decoded(written)[1]] == ["a"]


def test_drafts_are_bounded_however_long_a_commit_waits() -> None:
    epoch, own = Epoch(0), writer()
    written = [own.put(epoch, ran(f"b{n}", [n], n * MICRO)) for n in range(MOST_DRAFTS + 3)]
    assert [summary.batch_id for one in written for summary in decoded(one)[1]] == ["b0", "b1", "b2"]
    assert len(epoch.drafts) == MOST_DRAFTS
    last = (MOST_DRAFTS + 2) * MICRO
    written = [own.put(epoch, ran(f"c{n}", [n], last)) for n in range(ENOUGH_FATES)]
    (summary,) = [summary for one in written for summary in decoded(one)[1]]
    assert (summary.batch_id, summary.batches) == (f"b{MOST_DRAFTS + 2}", ENOUGH_FATES)


def asked(name: str, **about: Any) -> Fate:
    """One request that is otherwise than others."""
    return ran(name, [1], pieces=[requests([1], **about)])


@pytest.mark.parametrize(
    "other",
    [
        ran("b", [2], pieces=[requests([2], variant="new", features=[{"f": 1.0}])]),
        ran("b", [2], pieces=[requests([2], experiment="e", features=[{"f": 1.0}])]),
        ran("b", [2], pieces=[requests([2], topic="pool", features=[{"f": 1.0}])]),
        ran("b", [2], pieces=[requests([2], model="n", features=[{"f": 1.0}])]),
        ran("b", [2], pieces=[requests([2], version="2", features=[{"f": 1.0}])]),
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


def test_a_draft_keeps_nothing_that_is_not_logged() -> None:
    epoch, own = Epoch(0), writer()
    tensor = Tensor("x", "INT64", (1,), bytes(8))
    asked = requests([1], features=[{"f": 1.0}], tensors=[tensor], headers=[[("h", b"v")]])
    own.put(epoch, ran("a", [1], pieces=[asked], outputs=[{"y": np.zeros((1, 1)), "wide": np.zeros((1, 999))}]))
    (draft,) = epoch.drafts.values()
    ((kept,), (columns,)) = zip(*((fate.pieces, fate.outputs) for fate in draft.fates), strict=True)  # type: ignore[attr-defined]
    assert (kept[0].inputs, kept[0].tensors, kept[0].features, kept[0].headers, kept[0].keys) == ({}, (), (), None, ())
    assert [column.name for column in columns] == ["y"]


def test_what_is_forgotten_is_not_written() -> None:
    ledger, own = Ledger(), writer()
    epoch = ledger.admit({HERE: 2}, 2, 1)
    for number in range(2):
        ledger.finish(epoch, 1, own.put(epoch, ran(f"b{number}", [number])))
        ledger.halt()
        assert epoch.drafts == {}
    ledger.write(epoch)
    assert epoch.outputs == []
