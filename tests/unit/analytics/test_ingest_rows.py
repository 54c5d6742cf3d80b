"""Records become rows: what was logged is what SQL reads, column by column, and impossible records are named."""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prediction_batches import DAY, NOON, batch

from analytics.warehouse import Warehouse
from schemas.records import (
    BatchSummary,
    Column,
    Control,
    DeadLetter,
    MicroBatch,
    Outcome,
    PredictionBatch,
    Record,
    StringColumn,
)
from schemas.tensors import pack_bytes, pack_strings
from stream_workers.ingest_rows import InvalidRecordError, LogRecord, build, check


def log_records(*records: Record) -> list[LogRecord]:
    return [LogRecord(number, NOON // 1000 + number, 100, record) for number, record in enumerate(records)]


def stored(warehouse: Warehouse, table: str, *records: Record) -> list[dict[str, Any]]:
    warehouse.insert(table, build(log_records(*records), "topic@id", 3))
    return warehouse.query(f"SELECT * FROM {table} ORDER BY log_offset").dicts()  # noqa: S608


def test_a_prediction_is_stored_as_it_was_logged(warehouse: Warehouse) -> None:
    warehouse.insert("predictions", build(log_records(batch(1), batch(2, 2)), "topic@id", 3))
    rows = warehouse.query("SELECT * FROM predictions ORDER BY log_offset, user_id").dicts()
    assert len(rows) == 5
    assert rows[2] == {
        "score": None,
        "request_id": "r1-2",
        "row_number": 0,
        "user_id": "ü2",
        "model": "flight-delay",
        "version": "2",
        "experiment": "exp",
        "variant": "A",
        "topic": "scoring.requests",
        "partition": 5,
        "offset": 2,
        "sent_at": datetime(2026, 11, 23, 11, 59, 59, 993000, UTC),
        "received_at": datetime(2026, 11, 23, 11, 59, 59, 995000, UTC),
        "scored_at": datetime(2026, 11, 23, 12, 0, tzinfo=UTC),
        "code": "INVALID_ARGUMENT",
        "message": "bad field",
        "features": {"distance": 2.0},
        "categories": {"carrier": "AA"},
        "outputs": {"late": [4.0, 5.0]},
        "texts": {"label": ["l2"]},
        "batch_id": "b1",
        "worker": "w1",
        "device": "cpu",
        "degraded": "",
        "log": "topic@id",
        "log_partition": 3,
        "log_offset": 0,
        "log_time": datetime(2026, 11, 23, 12, 0, tzinfo=UTC),
    }
    assert rows[3]["request_id"] == "r2-0"
    assert rows[3]["score"] == pytest.approx(1 / 3)
    assert rows[3]["log_offset"] == 1
    assert rows[3]["degraded"] == "cached"


def test_batches_with_different_columns_share_a_block(warehouse: Warehouse) -> None:
    plain = batch(1, 2)
    vector = dataclasses.replace(
        batch(2, 2),
        features=(
            Column("position", "INT64", (2, 2), np.array([1, 2, 3, 4], "<i8").tobytes()),
            Column("name", "BYTES", (2,), pack_bytes(["a", "b"])),
            Column("flag", "BOOL", (2,), b"\x01\x00"),
            Column("half", "FP16", (2,), np.array([0.5, np.nan], "<f2").tobytes()),
        ),
        outputs=(),
    )
    warehouse.insert("predictions", build(log_records(plain, vector, batch(3, 0), batch(4, 1)), "t@i", 0))
    rows = warehouse.query(
        "SELECT features, categories, outputs, texts FROM predictions ORDER BY log_offset, user_id"
    ).rows
    assert rows[0] == ({"distance": 0.0}, {"carrier": "AA"}, {"late": [0.0, 1.0]}, {"label": ["l0"]})
    assert rows[2] == ({"position[0]": 1.0, "position[1]": 2.0, "flag": 1.0, "half": 0.5}, {"name": "a"}, {}, {})
    assert rows[3][0]["position[1]"] == 4.0
    assert math.isnan(rows[3][0]["half"])
    assert len(rows) == 5


def test_each_row_has_the_id_and_the_time_of_its_own_micro_batch(warehouse: Warehouse) -> None:
    shared = dataclasses.replace(batch(1, 3), batches=(MicroBatch("x", NOON + 1, 1), MicroBatch("y", NOON + 2, 2)))
    warehouse.insert("predictions", build(log_records(shared, batch(2, 2)), "t@i", 0))
    rows = warehouse.query(
        "SELECT batch_id, toUnixTimestamp64Micro(scored_at), count() FROM predictions GROUP BY ALL ORDER BY ALL"
    ).rows
    assert rows == (("b2", NOON, 2), ("x", NOON + 1, 1), ("y", NOON + 2, 2))


def test_times_that_no_clock_should_show_are_moved_to_what_clickhouse_holds(warehouse: Warehouse) -> None:
    odd = dataclasses.replace(batch(1, 2), sent_at=np.array([-(2**62), 2**62], "<i8").tobytes())
    warehouse.insert("predictions", build(log_records(odd), "t@i", 0))
    rows = warehouse.query("SELECT sent_at FROM predictions ORDER BY sent_at").rows
    assert rows == ((datetime(1970, 1, 1, tzinfo=UTC),), (datetime(2100, 1, 1, tzinfo=UTC),))


def test_a_code_of_a_newer_release_is_stored_by_its_number(warehouse: Warehouse) -> None:
    newer = dataclasses.replace(batch(1, 1), codes=bytes([200]))
    assert stored(warehouse, "predictions", newer)[0]["code"] == "CODE_200"


def test_every_other_record_is_stored_as_it_is(warehouse: Warehouse) -> None:
    at = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    summary = BatchSummary(
        "b", "w", "cpu", "m", "1", "", "", "t", NOON, 2, 5, 3, latency_histogram=(1, 4), errors={"OK": 5},
        feature_histograms={"seats": (2, 0, 3), "carrier": ()}, batches=2,
    )  # fmt: skip
    (row,) = stored(warehouse, "batch_summaries", summary)
    assert (row["rows"], row["latency_histogram"], row["errors"], row["scored_at"]) == (5, [1, 4], {"OK": 5}, at)
    assert row["feature_histograms"] == {"seats": [2, 0, 3], "carrier": []}
    assert row["batches"] == 2
    (row,) = stored(warehouse, "outcomes", Outcome("o", "u", "late", 1.0, NOON, "r1-0"))
    assert (row["outcome_id"], row["value"], row["occurred_at"]) == ("o", 1.0, at)
    letter = DeadLetter("t", 1, 9, None, b"x\xff", "NOT_AVRO", "no", "w", NOON, {"h": b"v", "none": None})
    (row,) = stored(warehouse, "dead_letters", letter)
    assert (row["key"], row["headers"], row["offset"]) == (None, {"h": "v", "none": ""}, 9)
    assert warehouse.query("SELECT hex(value) FROM dead_letters").scalar() == "78FF"
    (row,) = stored(warehouse, "control_history", Control("experiment", "e", 4, "{}", NOON, "me"))
    assert (row["name"], row["revision"], row["deleted"], row["changed_at"]) == ("e", 4, False, at)


STRING = StringColumn
THREE = batch(1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": -1}, "-1 rows"),
        ({"scores": b"1234"}, "PredictionBatch.scores has 4 bytes where 3 rows take 24"),
        ({"request_ids": pack_strings(["a"])}, "PredictionBatch.request_ids has 8 bytes of offsets"),
        ({"user_ids": STRING(np.array([0, 5, 1, 3], "<i4").tobytes(), b"abc")}, "user_ids has offsets that do not run"),
        ({"user_ids": STRING(np.array([0, 1, 2, 2], "<i4").tobytes(), b"abc")}, "user_ids has offsets that do not run"),
        ({"messages": STRING(np.array([0, 1, 2, 3], "<i4").tobytes(), b"a\xffb")}, "messages is not UTF-8 at byte 1"),
        ({"messages": STRING(np.array([0, 1, 2, 2], "<i4").tobytes(), "ü".encode())}, "starts inside a character"),
        ({"outputs": (Column("p", "FP32", (3, 2), b"1234"),)}, "column 'p' has 4 bytes where FP32 of [3, 2] takes 24"),
        ({"outputs": (Column("p", "FP31", (3,), b""),)}, "unknown datatype 'FP31'"),
        ({"outputs": (Column("p", "FP32", (2,), b"12345678"),)}, "column 'p' has shape [2]"),
        ({"outputs": (Column("p", "FP32", (3, -1), b""),)}, "column 'p' has shape [3, -1]"),
        ({"features": (Column("f", "BYTES", (3,), b"\x09\x00"),)}, "'f'"),
        (
            {"batches": (MicroBatch("x", NOON, 2), MicroBatch("y", NOON, 2))},
            "have [2, 2] rows where there are 3",
        ),
        ({"batches": (MicroBatch("x", NOON, 1), MicroBatch("y", NOON + DAY, 2))}, "of more than one day in UTC"),
        ({"batches": (MicroBatch("x", NOON, -1), MicroBatch("y", NOON, 4))}, "batches have [-1, 4] rows"),
    ],
)
def test_columns_that_disagree_are_named(change: dict[str, Any], said: str) -> None:
    check(THREE)
    with pytest.raises(InvalidRecordError) as caught:
        check(dataclasses.replace(THREE, **change))
    assert said in str(caught.value)


@given(st.lists(st.lists(st.text(max_size=4), max_size=5), min_size=1, max_size=5))
def test_strings_of_many_records_stay_apart(columns: list[list[str]]) -> None:
    batches: list[Record] = []
    for number, texts in enumerate(columns):
        batches.append(dataclasses.replace(batch(number, len(texts)), user_ids=pack_strings(texts)))
    for one in batches:
        check(one)
    table = build(log_records(*batches), "t@i", 0)
    assert table.column("user_id").to_pylist() == [text for texts in columns for text in texts]
    assert table.column("log_offset").to_pylist() == [n for n, texts in enumerate(columns) for _ in texts]


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["none", "flat", "wide"])), min_size=1, max_size=6))
def test_outputs_stay_with_their_rows(forms: list[tuple[int, str]]) -> None:
    batches: list[PredictionBatch] = []
    expected: list[list[tuple[str, list[float]]]] = []
    for number, (rows, form) in enumerate(forms):
        width = {"none": 0, "flat": 1, "wide": 3}[form]
        values = np.arange(rows * width, dtype="<f8").reshape(rows, width) + 100 * number
        shape = (rows,) if form == "flat" else (rows, width)
        outputs = () if form == "none" else (Column("y", "FP64", shape, values.tobytes()),)
        batches.append(dataclasses.replace(batch(number, rows), outputs=outputs))
        expected += [[] if form == "none" else [("y", list(row))] for row in values]
    table = build(log_records(*batches), "t@i", 0)
    assert table.column("outputs").to_pylist() == expected
