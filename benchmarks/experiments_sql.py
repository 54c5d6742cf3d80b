"""What a look at an experiment costs in ClickHouse: the first over everything, and the next over a little more.

`python -m benchmarks.experiments_sql` makes predictions and outcomes in a chDB of its own, looks twice and prints JSON.
Users come all the time and stay for a tenth of it; half of the predictions have an outcome within two days. The figures
are of two threads, with ClickHouse's `max_memory_usage` set: a query that wants more fails. `statements` says where the
time of a step went, and `load` what else the machine did: where that is more than what this needs, look at the seconds
of processor.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pyarrow as pa

from analytics.definition_reader import read
from analytics.definitions import Plan
from analytics.experiment_job import look, past_looks, summed
from analytics.experiment_state import advance
from analytics.experiment_store import ExperimentStore
from analytics.look_records import rows
from analytics.migrate import migrate
from analytics.reading import read as read_look
from analytics.warehouse import Answer, Warehouse, WarehouseConfig

# Recent: what is older than the time to live of predictions would be gone as it is inserted.
START: Final = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=40)
DAYS: Final = 30
MEMORY: Final = 2_000_000_000
THREADS: Final = 2
# Seconds: shorter statements are not listed.
LEAST: Final = 0.02
# Of the rows there are, how many come before each further look.
MORE: Final = (0.01, 0.02, 0.05, 0.1)
_CHUNK: Final = 1_000_000

DEFINITION: Final[dict[str, Any]] = {
    "name": "bench",
    "hypothesis": "None; this measures.",
    "model": "m",
    "control": "a",
    "slot": "1h",
    "maturity_delay": "1h",
    "variants": [{"name": "a", "version": "1", "share": 0.5}, {"name": "b", "version": "2", "share": 0.5}],
    "metrics": [
        {"name": "bought", "kind": "proportion", "outcome": "purchase", "window": "48h"},
        {"name": "revenue", "kind": "mean", "outcome": "purchase", "window": "48h", "cap_percentile": 99.9},
        {
            "name": "basket",
            "kind": "ratio",
            "numerator": {"outcome": "purchase"},
            "denominator": {"prediction": "rows"},
            "window": "48h",
        },
        {"name": "latency", "kind": "quantile", "prediction": "latency_ms", "percentile": 99, "window": "24h"},
    ],
    "guardrails": [{"metric": "latency", "margin": "5%"}],
}


class Watched(Warehouse):
    """A warehouse that notes what its statements took: name, wall seconds, and seconds of processor of all threads."""

    def __init__(self, config: WarehouseConfig, connect: Callable[[], Any]) -> None:
        super().__init__(config, connect)
        self.notes: list[tuple[str, float, float]] = []

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Answer:
        """As `Warehouse` does."""
        with self._noting(_name(sql)):
            return super().query(sql, parameters)

    def arrow(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """As `Warehouse` does."""
        with self._noting(_name(sql)):
            return super().arrow(sql, parameters)

    def insert(self, table: str, rows: pa.Table, token: str = "") -> None:
        """As `Warehouse` does."""
        with self._noting(f"rows into {table}"):
            super().insert(table, rows, token)

    @contextmanager
    def _noting(self, name: str) -> Iterator[None]:
        began, worked = time.perf_counter(), time.process_time()
        yield
        self.notes.append((name, time.perf_counter() - began, time.process_time() - worked))


def _name(sql: str) -> str:
    into = re.search(r"INSERT INTO (\w+)", sql)
    tables = sorted(set(re.findall(r"(?:FROM|JOIN) (predictions|outcomes|experiment_\w+)", sql)))
    return f"{into[1] + ' from ' if into else 'ask '}{', '.join(tables)}"


def fill(warehouse: Warehouse, first: int, last: int, total: int) -> None:
    """Predictions [first, last) of `total` that fill `DAYS`, and the outcomes of every second one."""
    step = DAYS * 86_400_000_000 // total
    users = max(total // 10, 10)
    began = int(START.timestamp()) * 1_000_000
    for at in range(first, last, _CHUNK):
        end = min(at + _CHUNK, last)
        warehouse.command(
            f"""
            INSERT INTO predictions (request_id, user_id, model, version, experiment, variant, topic, partition, offset,
                sent_at, received_at, scored_at, code, score, batch_id, worker, device, log, log_partition, log_offset,
                log_time)
            WITH 'u' || toString(intDiv(number * {users}, {total}) + cityHash64(number) % {users // 10}) AS user,
                xxh3('bench:' || user) % 10000 < 5000 AS control,
                fromUnixTimestamp64Micro(toInt64({began} + number * {step}), 'UTC') AS moment
            SELECT 'r' || toString(number), user, 'm', if(control, '1', '2'), 'bench', if(control, 'a', 'b'),
                'requests', number % 16, intDiv(number, 16), moment - toIntervalMicrosecond(900 + cityHash64(number, 2)
                % 9000), moment, moment, 'OK', (cityHash64(number, 3) % 1000) / 1000, 'b' || toString(intDiv(number,
                256)), 'w' || toString(number % 2), 'cpu', 'p@1', number % 4, number, moment
            FROM numbers({at}, {end - at})
            """,  # noqa: S608 - numbers of ours
        )
        warehouse.command(
            f"""
            INSERT INTO outcomes (outcome_id, request_id, user_id, experiment, model, name, value, occurred_at, sent_at,
                log, log_partition, log_offset, log_time)
            WITH 'u' || toString(intDiv(number * {users}, {total}) + cityHash64(number) % {users // 10}) AS user,
                fromUnixTimestamp64Micro(toInt64({began} + number * {step} + cityHash64(number, 4) % 172800000000),
                'UTC') AS moment
            SELECT 'o' || toString(number), 'r' || toString(number), user, 'bench', 'm', 'purchase',
                (cityHash64(number, 5) % 10000) / 100, moment, moment, 'o@1', number % 4, number, moment
            FROM numbers({at}, {end - at}) WHERE number % 2 = 0
            """,  # noqa: S608 - numbers of ours
        )


@contextmanager
def _timed(watched: Watched, into: dict[str, Any], name: str) -> Iterator[None]:
    """Wall seconds as `name`; seconds of processor, of all threads, beside them: others may be on this machine."""
    began, worked = time.perf_counter(), time.process_time()
    watched.notes.clear()
    yield
    into[f"{name}_s"] = round(time.perf_counter() - began, 3)
    into[f"{name}_cpu_s"] = round(time.process_time() - worked, 3)
    worth = [one for one in watched.notes if one[1] >= LEAST]
    if worth:
        into.setdefault("statements", {})[name] = [
            {"statement": what, "s": round(wall, 3), "cpu_s": round(cpu, 3)} for what, wall, cpu in worth
        ]


def measure(warehouse: Watched, predictions: int) -> dict[str, Any]:
    """Fill, look, add a hundredth, look again, then add more and more; seconds by step.

    The warehouse must be migrated and otherwise empty.
    """
    # Arrow imports pandas when it is first given a list: a second, once a process, and no part of a look.
    pa.array([START])
    plan = Plan(read(DEFINITION, "bench")).start(START)
    found: dict[str, Any] = {"predictions": predictions, "outcomes": predictions // 2, "days": DAYS}
    more = predictions // 100
    total = predictions + more
    with _timed(warehouse, found, "fill"):
        fill(warehouse, 0, predictions, total)
    store = ExperimentStore(warehouse)
    slot = timedelta(hours=1)
    at = START + timedelta(days=DAYS) * (predictions / total)
    at -= (at - START) % slot
    with _timed(warehouse, found, "first_look"):
        first = advance(warehouse, plan, at)
    with _timed(warehouse, found, "report"):
        sums = store.sums(plan, at)
        store.exposures_by_day(plan, at)
        store.unit_counts(plan, at)
        store.timeseries(plan, at)
    fill(warehouse, predictions, total, total)
    at = START + timedelta(days=DAYS)
    with _timed(warehouse, found, "second_look"):
        second = advance(warehouse, plan, at)
    with _timed(warehouse, found, "idle_look"):
        advance(warehouse, plan, at)
    # What the job adds to that: the sums once more, all tests, and the rows of the look.
    with _timed(warehouse, found, "sums"):
        some = summed(store, plan, at)
    with _timed(warehouse, found, "tests"):
        reading = read_look(plan, 1, at, some)
    with _timed(warehouse, found, "write"):
        warehouse.insert("experiment_looks", rows(reading))
    with _timed(warehouse, found, "idle_job_look"):
        look(warehouse, store, plan, at, past_looks(warehouse, plan))
    found["looks_over_more"] = _looks_over_more(warehouse, plan, total, slot)
    found["first_look_and_report_s"] = round(found["first_look_s"] + found["report_s"], 3)
    found["second_to_first"] = round(found["second_look_cpu_s"] / found["first_look_cpu_s"], 4)
    found["slots"] = {"first": first.folded, "second": second.folded}
    found["units"] = sum(one.n for one in sums if one.metric == "bought")
    return found


def _looks_over_more(warehouse: Watched, plan: Plan, total: int, slot: timedelta) -> list[dict[str, Any]]:
    """Looks over more and more new rows, one after another: whether their cost is that of what is new."""
    found, end = [], total
    for share in MORE:
        begin, end = end, end + int(total * share)
        fill(warehouse, begin, end, total)
        at = START + timedelta(days=DAYS) * (end / total)
        at -= (at - START) % slot
        one: dict[str, Any] = {"share": share, "predictions": end - begin}
        with _timed(warehouse, one, "look"):
            one["slots"] = advance(warehouse, plan, at).folded
        found.append({name: value for name, value in one.items() if name != "statements"})
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictions", type=int, default=10_000_000)
    parser.add_argument("--memory", type=int, default=MEMORY, help="bytes that one query may use")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        settings = {"max_memory_usage": str(options.memory), "max_threads": str(THREADS)}
        with Watched.open(WarehouseConfig(path=folder, settings=settings)) as warehouse:
            migrate(warehouse)
            found = measure(warehouse, options.predictions)
            found |= {"clickhouse": warehouse.version(), "threads": THREADS, "memory_limit": options.memory}
            found["peak_resident_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            found["load"] = {"before": round(load, 2), "after": round(os.getloadavg()[0], 2)}
    found = {"benchmark": "experiments-sql", "date": datetime.now(UTC).isoformat(timespec="seconds"), **found}
    json.dump(found, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
