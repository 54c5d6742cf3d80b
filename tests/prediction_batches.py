"""Prediction batches for tests: small, distinct, and of every kind of column."""

from __future__ import annotations

import numpy as np

from schemas.codes import CODES, Code
from schemas.records import Column, PredictionBatch
from schemas.tensors import pack_strings

NOON = 1_795_435_200_000_000  # 2026-11-23 12:00 UTC, microseconds
DAY = 86_400_000_000


def batch(number: int, rows: int = 3, *, scored_at: int = NOON, model: str = "flight-delay") -> PredictionBatch:
    """Batch `number`: request ids are "r<number>-<row>", every third row is an error and has no score."""
    errors = np.arange(rows) % 3 == 2
    codes = np.where(errors, CODES.index(Code.INVALID_ARGUMENT), CODES.index(Code.OK)).astype("u1")
    scores = np.where(errors, np.nan, (np.arange(rows) + 1) / (rows + 1)).astype("<f8")
    return PredictionBatch(
        batch_id=f"b{number}",
        worker="w1",
        device="cpu",
        model=model,
        version="2",
        experiment="exp",
        variant="A" if number % 2 else "B",
        topic="scoring.requests",
        scored_at=scored_at,
        rows=rows,
        request_ids=pack_strings([f"r{number}-{row}" for row in range(rows)]),
        user_ids=pack_strings([f"ü{row}" for row in range(rows)]),
        partitions=np.full(rows, 5, "<i4").tobytes(),
        offsets=np.arange(rows, dtype="<i8").tobytes(),
        row_numbers=np.zeros(rows, "<i4").tobytes(),
        sent_at=np.full(rows, scored_at - 7_000, "<i8").tobytes(),
        received_at=np.full(rows, scored_at - 5_000, "<i8").tobytes(),
        codes=codes.tobytes(),
        messages=pack_strings(["bad field" if error else "" for error in errors]),
        scores=scores.tobytes(),
        features=(
            Column("distance", "FP32", (rows,), np.arange(rows, dtype="<f4").tobytes()),
            Column("carrier", "BYTES", (rows,), b"", pack_strings(["AA", "ÜÜ"] * (rows // 2) + ["AA"] * (rows % 2))),
        ),
        outputs=(
            Column("late", "FP32", (rows, 2), np.arange(2 * rows, dtype="<f4").tobytes()),
            Column("label", "BYTES", (rows, 1), b"", pack_strings([f"l{row}" for row in range(rows)])),
        ),
        degraded="" if number % 2 else "cached",
    )
