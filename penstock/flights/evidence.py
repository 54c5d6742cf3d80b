"""Fills a warehouse with what the demo leaves there, without Kafka: real flights, scored, and what became of them.

The rows are those that ingest would write, but for what differs from run to run: times, workers and the run's name. The
pages of documentation take their answers from it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

from analytics.definitions import PLAN_KIND, Plan
from analytics.experiment_state import Advance, advance
from analytics.warehouse import Warehouse
from models.loading import LoadedModel
from models.routing import Experiment, Router
from models.store import Store
from penstock.demo import EXPERIMENT, MODEL, OUTCOME, definition, experiment
from penstock.demo_evidence import Run
from penstock.flights.data import Dataset, Flight, dataset, features, flights
from penstock.flights.signature import OUTPUT
from schemas.codes import INDEX, Code
from schemas.records import Column, Control, Outcome, PredictionBatch, Record
from schemas.tensors import pack_strings
from stream_workers.ingest_rows import LogRecord, build
from stream_workers.log_columns import feature_columns

FILE: Final = Path(__file__).parent / "experiment.toml"
_ROWS: Final = 4096
_GAP_US: Final = 2000
_SCORING_US: Final = 3000


def fill(warehouse: Warehouse, store: Store, start: date, days: int, now: datetime) -> Plan:
    """Write the flights of `days` New York dates from `start` as one run of the demo that has just ended, at `now`.

    Returns the run's plan. Raises `FlightsDataError`, `ModelError`, `WarehouseError`.
    """
    data = dataset()
    some = list(flights(start, days, data))
    began = round(now.timestamp() * 1e6) - len(some) * 2 * _GAP_US - 60_000_000
    run = Run(f"{datetime.fromtimestamp(began / 1e6, UTC):%Y%m%dT%H%M%S}-0000", began, MODEL, OUTCOME)
    assignment = experiment()
    plan = Plan(definition()).start(datetime.fromtimestamp(0, UTC) + timedelta(microseconds=began))
    for number, (kind, body) in enumerate((("experiment", assignment.to_json()), (PLAN_KIND, plan.to_json()))):
        _write(warehouse, "control_history", [Control(kind, EXPERIMENT, began, body, began, "penstock demo")], number)
    batches = _predictions(some, data, store, Router([assignment]), assignment, run, start, days)
    _write(warehouse, "predictions", list(batches), 0)
    _write(warehouse, "outcomes", list(_outcomes(some, run)), 0)
    return plan


def look(warehouse: Warehouse, plan: Plan, now: datetime) -> Advance:
    """A look at all of a run that ended before `now`, as if every window had closed: nothing more comes."""
    ahead = max(one.window for one in plan.definition.metrics) + plan.definition.maturity_delay
    return advance(warehouse, plan, now + ahead + plan.definition.slot)


def _predictions(
    some: Sequence[Flight],
    data: Dataset,
    store: Store,
    router: Router,
    assignment: Experiment,
    run: Run,
    start: date,
    days: int,
) -> Iterator[PredictionBatch]:
    rows = data.between(start, days)
    default = store.default_version(MODEL)
    met = router.assign_many(EXPERIMENT, [one.tail_number for one in some])
    # A flight of no known aircraft is nobody's and belongs to no variant.
    variants = [variant if one.tail_number else None for variant, one in zip(met, some, strict=True)]
    numbers = itertools.count(1)
    for variant in (None, *assignment.variants):
        version = variant.version if variant else default
        model = LoadedModel.load(store, MODEL, version, "cpu")
        mine = np.array([at for at, one in enumerate(variants) if one == variant], np.int64)
        for at in range(0, len(mine), _ROWS):
            where = mine[at : at + _ROWS]
            columns = {name: values[rows.start + where] for name, values in data.features.items()}
            made = model.manifest.signature.assemble_columns(columns, len(where))
            (answer,) = model.run([made.inputs])
            yield _batch(
                f"b{next(numbers)}", [some[one] for one in where], where, np.asarray(answer[OUTPUT]).ravel(), run,
                version=version, experiment=EXPERIMENT if variant else "", variant=variant.name if variant else "",
            )  # fmt: skip
        model.close()


def _batch(
    name: str,
    some: Sequence[Flight],
    where: np.ndarray[Any, np.dtype[np.int64]],
    scores: np.ndarray[Any, Any],
    run: Run,
    *,
    version: str,
    experiment: str,
    variant: str,
) -> PredictionBatch:
    count = len(some)
    sent = run.began + where * _GAP_US
    values: list[Mapping[str, Any]] = [features(one) for one in some]
    return PredictionBatch(
        batch_id=name,
        worker="w0",
        device="cpu",
        model=MODEL,
        version=version,
        experiment=experiment,
        variant=variant,
        topic="scoring.requests",
        scored_at=int(sent[-1]) + _SCORING_US,
        rows=count,
        request_ids=pack_strings([run.prefix + one.request_id for one in some]),
        user_ids=pack_strings([one.tail_number for one in some]),
        partitions=np.zeros(count, "<i4").tobytes(),
        offsets=where.astype("<i8").tobytes(),
        row_numbers=np.zeros(count, "<i4").tobytes(),
        sent_at=sent.astype("<i8").tobytes(),
        received_at=sent.astype("<i8").tobytes(),
        codes=bytes([INDEX[Code.OK]]) * count,
        messages=pack_strings([""] * count),
        scores=scores.astype("<f8").tobytes(),
        features=feature_columns(values, count),
        outputs=(Column(OUTPUT, "FP32", (count,), scores.astype("<f4").tobytes()),),
    )


def _outcomes(some: Sequence[Flight], run: Run) -> Iterator[Outcome]:
    arrived = sorted((one.arrived_at, number) for number, one in enumerate(some) if one.arrived_at is not None)
    for position, (moment, number) in enumerate(arrived):
        flight = some[number]
        request_id = run.prefix + flight.request_id
        yield Outcome(
            outcome_id=f"{request_id}/{OUTCOME}",
            user_id=flight.tail_number,
            name=OUTCOME,
            value=float(bool(flight.late)),
            occurred_at=round(moment.timestamp()) * 1_000_000,
            request_id=request_id,
            experiment=EXPERIMENT,
            model=MODEL,
            sent_at=run.began + 2 * position * _GAP_US,
        )


def _write(warehouse: Warehouse, table: str, records: Sequence[Record], first: int) -> None:
    stamped = []
    for number, one in enumerate(records):
        when = one.scored_at if isinstance(one, PredictionBatch) else getattr(one, "sent_at", 0)
        when = when or getattr(one, "changed_at", 0)
        stamped.append(LogRecord(first + number, when // 1000, 0, one))
    warehouse.insert(table, build(stamped, f"{table}@flights", 0))
