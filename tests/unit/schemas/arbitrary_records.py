"""Hypothesis strategies for every record, shared by the schema tests."""

from __future__ import annotations

from hypothesis import strategies as st

from schemas.codes import Code
from schemas.records import (
    Alert,
    BatchSummary,
    Column,
    Control,
    DeadLetter,
    MicroBatch,
    Outcome,
    PredictionBatch,
    Record,
    RowError,
    ScoreBatch,
    ScoreReply,
    ScoreRequest,
    StringColumn,
    Tensor,
)

# UTF-8 has no surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
blobs = st.binary(max_size=40)
ints = st.integers(-(2**31), 2**31 - 1)
longs = st.integers(-(2**63), 2**63 - 1)
reals = st.floats(allow_nan=False)
codes = st.sampled_from(Code)
string_columns = st.builds(StringColumn, blobs, blobs)
shapes = st.lists(longs, max_size=3).map(tuple)
tensors = st.lists(st.builds(Tensor, texts, texts, shapes, blobs), max_size=3).map(tuple)
columns = st.lists(st.builds(Column, texts, texts, shapes, blobs, st.none() | string_columns), max_size=3).map(tuple)
row_errors = st.lists(st.builds(RowError, ints, codes, texts), max_size=3).map(tuple)
micro_batches = st.lists(st.builds(MicroBatch, texts, longs, ints, longs), max_size=3).map(tuple)
counts = st.lists(longs, max_size=5).map(tuple)
features = st.dictionaries(texts, st.none() | reals | texts, max_size=4)

PARTS: dict[type[Record], dict[str, st.SearchStrategy[object]]] = {
    ScoreRequest: {"inputs": tensors, "features": features},
    ScoreBatch: {"inputs": tensors, "columns": tensors},
    ScoreReply: {"code": codes, "outputs": tensors, "row_errors": row_errors},
    PredictionBatch: {
        "request_ids": string_columns,
        "user_ids": string_columns,
        "messages": string_columns,
        "features": columns,
        "outputs": columns,
        "batches": micro_batches,
    },
    BatchSummary: {
        "latency_histogram": counts,
        "score_histogram": counts,
        "errors": st.dictionaries(texts, longs, max_size=3),
        "feature_histograms": st.dictionaries(texts, counts, max_size=3),
    },
    Outcome: {},
    DeadLetter: {
        "key": st.none() | blobs,
        "value": st.none() | blobs,
        "headers": st.dictionaries(texts, st.none() | blobs, max_size=3),
    },
    Control: {},
    Alert: {"labels": st.dictionaries(texts, texts, max_size=3)},
}
PLAIN: dict[str, st.SearchStrategy[object]] = {
    "str": texts,
    "bytes": blobs,
    "float": reals,
}
INT32 = {"reply_partition", "batches", "rows", "requests", "padded_rows", "partition"}


def of(record: type[Record]) -> st.SearchStrategy[Record]:
    """Any record of this type."""
    parts = {}
    for name, kind in record.__annotations__.items():
        parts[name] = PARTS[record].get(name, PLAIN.get(kind, ints if name in INT32 else longs))
    return st.builds(record, **parts)
