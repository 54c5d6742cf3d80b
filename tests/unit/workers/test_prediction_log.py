"""The prediction log holds each row once, in records that Kafka takes, whatever the senders wrote."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worker_pieces import requests

from schemas.codec import Codec
from schemas.codes import INDEX, Code
from schemas.records import MicroBatch, PredictionBatch, StringColumn
from schemas.tensors import unpack_strings
from schemas.topics import MAX_MESSAGE_BYTES
from stream_workers.fates import Fate
from stream_workers.log_columns import feature_columns
from stream_workers.prediction_log import CLIPPED, encoded, log_record, sliced
from stream_workers.runs import Run
from stream_workers.work import Requests

CODEC = Codec()
RUN = Run(0.0, 0.004, 0)


def logged(*pieces: Requests, code: Code = Code.OK, **about: Any) -> PredictionBatch:
    """The record of one micro-batch."""
    run = RUN if code is Code.OK else None
    return log_record([Fate.of("b", 2_000_000, code, pieces, device="cpu", run=run, **about)], "w")


def scored(numbers: list[int], rows_each: int = 1, width: int = 2) -> PredictionBatch:
    """A record of requests of named features where each has one row, with outputs of numbers and text."""
    count = len(numbers) * rows_each
    features = [{"f": float(n), "t": f"ü{n}"} for n in numbers] if rows_each == 1 else ()
    outputs = {
        "y": np.arange(count * width, dtype=np.float32).reshape(count, width),
        "label": np.array([f"l{n}" for n in range(count)], object),
    }
    piece = requests(numbers, rows_each, features=features)
    return logged(piece, scores=np.arange(count) / 7, outputs=[outputs])


def joined(parts: list[PredictionBatch]) -> PredictionBatch:
    """Slices as the one record they were."""

    def words(columns: list[StringColumn]) -> list[str]:
        return [text for column in columns for text in unpack_strings(column)]

    changes: dict[str, Any] = {"rows": sum(part.rows for part in parts)}
    for one in fields(PredictionBatch):
        values = [getattr(part, one.name) for part in parts]
        if isinstance(values[0], bytes):
            changes[one.name] = b"".join(values)
        elif isinstance(values[0], StringColumn):
            changes[one.name] = words(values)
        elif one.name == "batches":
            changes[one.name] = together([batch for batches in values for batch in batches])
        elif isinstance(values[0], tuple):
            changes[one.name] = [
                (
                    columns[0].name,
                    columns[0].datatype,
                    (sum(column.shape[0] for column in columns), *columns[0].shape[1:]),
                    b"".join(column.data for column in columns),
                    None if columns[0].strings is None else words([column.strings for column in columns]),
                )
                for columns in zip(*values, strict=True)
            ]
    return replace(parts[0], **changes)


def together(batches: list[MicroBatch]) -> list[MicroBatch]:
    """Parts of one micro-batch in a row as one again."""
    found: list[MicroBatch] = []
    for batch in batches:
        if found and found[-1].batch_id == batch.batch_id:
            found[-1] = replace(batch, rows=found[-1].rows + batch.rows)
        else:
            found.append(batch)
    return found


@settings(deadline=None)
@given(count=st.integers(1, 12), rows_each=st.integers(1, 3), data=st.data())
def test_slices_of_a_record_are_together_the_record(count: int, rows_each: int, data: st.DataObject) -> None:
    record = scored(list(range(count)), rows_each)
    cuts = sorted(data.draw(st.sets(st.integers(1, record.rows - 1) if record.rows > 1 else st.nothing())))
    parts = [sliced(record, a, b) for a, b in zip([0, *cuts], [*cuts, record.rows], strict=True)]
    assert joined(parts) == joined([record])
    assert all(CODEC.decode(PredictionBatch, CODEC.encode(part)) == part for part in parts)
    assert all(sum(batch.rows for batch in part.batches) == part.rows for part in parts)


def test_slices_of_many_micro_batches_say_which_each_row_is_of() -> None:
    fates = [Fate.of(f"b{n}", n, Code.TOO_LARGE, [requests([*range(n)])], messages=["m"] * n) for n in (1, 2, 3)]
    record = log_record(fates, "w")
    parts = sliced(record, 0, 2), sliced(record, 2, 3), sliced(record, 3, 6)
    assert [(part.batch_id, part.scored_at) for part in parts] == [("b1", 2), ("b2", 2), ("b3", 3)]
    assert [[(one.batch_id, one.rows) for one in part.batches] for part in parts] == [
        [("b1", 1), ("b2", 1)],
        [("b2", 1)],
        [("b3", 3)],
    ]


def test_a_large_record_is_cut_until_each_part_fits_and_no_row_is_lost() -> None:
    record = scored(list(range(500)), 2)
    values = encoded(CODEC, record, limit=2_000)
    assert len(values) > 10
    assert all(len(value) <= 2_000 for value in values)
    assert joined([CODEC.decode(PredictionBatch, value) for value in values]) == joined([record])


def test_a_request_of_many_rows_is_cut_within() -> None:
    values = encoded(CODEC, scored([0], 300), limit=3_000)
    rows = [CODEC.decode(PredictionBatch, value) for value in values]
    numbers = np.concatenate([np.frombuffer(one.row_numbers, "<i4") for one in rows])
    assert numbers.tolist() == list(range(300))


@pytest.mark.parametrize("field", ["ids", "users"])
def test_a_row_larger_than_a_record_is_clipped_rather_than_lost(field: str) -> None:
    fields_: dict[str, Any] = {field: [b"x" * MAX_MESSAGE_BYTES], "features": [{"t": "y" * MAX_MESSAGE_BYTES}]}
    piece = requests([0], 1, **fields_)
    record = logged(piece, code=Code.TOO_LARGE, messages=["m" * MAX_MESSAGE_BYTES])
    (value,) = encoded(CODEC, record)
    assert len(value) < 100_000
    kept = CODEC.decode(PredictionBatch, value)
    assert (kept.rows, kept.codes) == (1, bytes([INDEX[Code.TOO_LARGE]]))
    assert unpack_strings(kept.messages) == ["m" * CLIPPED]


def test_made_up_feature_names_do_not_become_columns_of_everybody() -> None:
    rows = [{"a": 1.0, f"made up {n}": 2.0} for n in range(1_000)]
    assert [column.name for column in feature_columns(rows, 1_000)] == ["a"]


def test_the_order_in_which_a_sender_names_its_features_does_not_matter() -> None:
    columns = feature_columns([{"b": 2.0, "a": 1}], 1), feature_columns([{"a": True, "b": 2.0}], 1)
    assert columns[0] == columns[1]


def test_few_rows_keep_all_their_features() -> None:
    found = feature_columns([{"a": 1.0}, {"b": "x"}, {"a": None}], 3)
    assert {column.name: column.datatype for column in found} == {"a": "FP64", "b": "BYTES"}
    assert np.array_equal(np.frombuffer(found[0].data), [1.0, np.nan, np.nan], equal_nan=True)
    assert found[1].strings is not None
    assert unpack_strings(found[1].strings) == ["", "x", ""]


def test_refused_requests_of_many_rows_are_one_row_each_with_its_own_message() -> None:
    record = logged(requests([1, 2], 5), code=Code.DEADLINE_EXCEEDED, messages=["late", "later"])
    assert record.rows == 2
    assert unpack_strings(record.messages) == ["late", "later"]
    assert np.isnan(np.frombuffer(record.scores)).all()


def test_outputs_that_are_no_column_stay_out_of_the_log() -> None:
    piece = requests([0, 1])
    outputs = {
        "fits": np.zeros((2, 4), np.float32),
        "wide": np.zeros((2, 1_000), np.float32),
        "texts": np.full((2, 1, 5), "x", object),
        "text": np.full((2, 1), "x", object),
    }
    record = logged(piece, scores=np.zeros(2), outputs=[outputs])
    assert [column.name for column in record.outputs] == ["fits", "text"]
    assert record.outputs[1].shape == (2,)
