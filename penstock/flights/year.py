"""Scores the flights of 2013 straight into a warehouse, day by day at their own times, as if Penstock had run then.

The rows are those that ingest would write; only the log's time is today's, as ClickHouse forgets what was logged half a
year ago. An outcome is there for each flight that landed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from typing import Any, Final

import numpy as np

from analytics.warehouse import Warehouse
from models.loading import LoadedModel
from models.registry import ModelStore
from penstock.flights.data import FIRST_DAY, LAST_DAY, Dataset, dataset
from penstock.flights.evaluation import OUTCOME
from penstock.flights.features import CATEGORIES, FEATURES
from penstock.flights.signature import OUTPUT
from schemas.codes import INDEX, Code
from schemas.records import Column, Outcome, PredictionBatch, Record
from schemas.tensors import BYTES, pack_strings
from stream_workers.ingest_rows import LogRecord, build

MODEL: Final = "flight-delay"
DAYS: Final = (LAST_DAY - FIRST_DAY).days + 1
_US: Final = 60_000_000


def fill(
    warehouse: Warehouse, store: ModelStore, versions: tuple[str, ...], start: date, days: int, now: datetime
) -> int:
    """Write `days` New York dates from `start`, each flight scored by every version, and its outcome; returns rows.

    The warehouse must be migrated. Raises `FlightsDataError`, `ModelError`, `WarehouseError`.
    """
    data = dataset()
    models = [LoadedModel.load(store, MODEL, version, "cpu") for version in versions]
    rows = 0
    try:
        for day in range(days):
            span = data.between(start + timedelta(days=day), 1)
            batches = [_batch(data, span, model) for model in models]
            rows += len(batches) * (span.stop - span.start)
            _write(warehouse, "predictions", batches, day * len(models), now)
            _write(warehouse, "outcomes", list(_outcomes(data, span)), span.start, now)
    finally:
        for model in models:
            model.close()
    return rows


def _batch(data: Dataset, span: slice, model: LoadedModel) -> PredictionBatch:
    columns = {name: values[span] for name, values in data.features.items()}
    count = span.stop - span.start
    made = model.manifest.signature.assemble_columns(columns, count)
    (answer,) = model.run([made.inputs])
    scores = np.asarray(answer[OUTPUT]).ravel()
    table = data.flights
    # A batch has one time: that of its last flight, in whose day all of it was due by New York's clock. UTC's day ends
    # at seven or eight in the evening there, so the batch is told its flights' noon.
    departs = table.departs[span] * _US
    noon = int(np.median(departs))
    return PredictionBatch(
        batch_id=f"{model.manifest.version}-{span.start}",
        worker="w0",
        device="cpu",
        model=MODEL,
        version=model.manifest.version,
        experiment="",
        variant="",
        topic="scoring.requests",
        scored_at=noon,
        rows=count,
        request_ids=pack_strings(table.request_id[span].tolist()),
        user_ids=pack_strings(table.tail_number[span].tolist()),
        partitions=np.zeros(count, "<i4").tobytes(),
        offsets=np.arange(span.start, span.stop, dtype="<i8").tobytes(),
        row_numbers=np.zeros(count, "<i4").tobytes(),
        sent_at=departs.astype("<i8").tobytes(),
        received_at=departs.astype("<i8").tobytes(),
        codes=bytes([INDEX[Code.OK]]) * count,
        messages=pack_strings([""] * count),
        scores=scores.astype("<f8").tobytes(),
        features=tuple(_column(name, columns[name]) for name in FEATURES),
        outputs=(Column(OUTPUT, "FP32", (count,), scores.astype("<f4").tobytes()),),
    )


def _column(name: str, values: np.ndarray[Any, Any]) -> Column:
    if name in CATEGORIES:
        return Column(name, BYTES, (len(values),), b"", pack_strings(values.tolist()))
    return Column(name, "FP64", (len(values),), values.astype("<f8").tobytes())


def _outcomes(data: Dataset, span: slice) -> Iterator[Outcome]:
    table = data.flights
    landed = table.arrives[span] + np.nan_to_num(table.arrival_delay[span]).astype(np.int64)
    for at, (label, minute) in enumerate(zip(data.labels(span).tolist(), landed.tolist(), strict=True), span.start):
        if label == label:  # NaN, which is no outcome, is the one value that differs from itself
            request = table.request_id[at]
            yield Outcome(
                outcome_id=f"{request}/{OUTCOME}",
                user_id=table.tail_number[at],
                name=OUTCOME,
                value=label,
                occurred_at=minute * _US,
                request_id=request,
                model=MODEL,
                sent_at=minute * _US,
            )


def _write(warehouse: Warehouse, table: str, records: Sequence[Record], first: int, now: datetime) -> None:
    stamped = [LogRecord(number, round(now.timestamp() * 1000), 0, one) for number, one in enumerate(records, first)]
    if stamped:
        warehouse.insert(table, build(stamped, f"{table}@year", 0))
