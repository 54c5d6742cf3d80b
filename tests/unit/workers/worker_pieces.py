"""Requests and bulk parts for the worker's unit tests: small, and each unit with a number of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from schemas.byte_columns import BytesColumn
from schemas.records import ScoreBatch
from stream_workers.ledger import Epoch
from stream_workers.work import BulkBatch, BulkPart, Requests

EPOCH = Epoch(0)


def requests(numbers: Sequence[int], rows_each: int = 1, **fields: Any) -> Requests:
    """Requests with ids "r<number>" whose inputs hold their number in every row."""
    count = len(numbers)
    plain: dict[str, Any] = {
        "epoch": EPOCH,
        "topic": "requests",
        "model": "m",
        "version": "1",
        "experiment": "",
        "variant": "",
        "reply_topic": "replies",
        "ids": BytesColumn.of(f"r{number}".encode() for number in numbers),
        "users": BytesColumn.of(f"u{number}".encode() for number in numbers),
        "keys": [f"u{number}|".encode() for number in numbers],
        "partitions": np.zeros(count, np.int64),
        "offsets": np.array(numbers, np.int64),
        "sent_at": np.full(count, 1_000_000, np.int64),
        "deadlines": np.zeros(count, np.int64),
        "reply_partitions": np.full(count, -1, np.int64),
        "received_at": np.full(count, 1_000_500, np.int64),
        "taken": np.zeros(count),
        "rows_each": rows_each,
        "inputs": {"x": np.repeat(np.array(numbers, np.int64), rows_each)},
    }
    return Requests(**{**plain, **fields})


def bulk_part(rows: int) -> BulkPart:
    """All rows of a bulk batch; its input holds the row's number."""
    record = ScoreBatch("job", 0, "m", 0, "results", rows)
    where = np.arange(rows)
    return BulkPart(BulkBatch(EPOCH, record, "bulk", "1", 0), where, {"x": where.copy()}, 0.0)
