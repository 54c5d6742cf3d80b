"""Swaps, rollbacks, ramps, corrupt artifacts, kills and lost devices under a steady load: `python -m benchmarks.swaps`.

Two workers on a real Apache Kafka; a process that asks at a steady rate and keeps every answer; versions that answer
differently, so that an answer shows who gave it. Writes DATE-swaps.json with what was promised, the figure and whether
it holds; exits 1 where something does not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.swap_figures import SECOND
from benchmarks.swap_operator import LISTED_SECONDS, Operator
from benchmarks.swap_report import EARLY_SWAPS, Run, report
from benchmarks.swap_stage import Stage, asking, read_log
from benchmarks.swap_versions import FLIGHTS, MADE, SPOILT, Versions, artifacts
from benchmarks.swap_worker import WORKER, witnessing
from models.registry import Registry
from penstock.bench.bed import Bed, machine
from penstock.settings import Settings, load

RESULTS: Final = Path(__file__).parent / "results"
WORKERS: Final = 2
# Users ask by turns: twice a second each.
USERS: Final = 250
# What was swapped out is unloaded after a while; memories are compared when nothing is left to be.
GIVEN_BACK_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Counts:
    """How often each thing is done. `timed` of the `swaps` have windows of their own before and after them."""

    swaps: int = 50
    timed: int = 20
    rollbacks: int = 5
    ramps: int = 5
    corrupt: int = 5
    kills: int = 5
    devices: int = 5

    @classmethod
    def names(cls) -> list[str]:
        """Its fields."""
        return [*cls.__slots__]  # type: ignore[attr-defined]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swaps", description=__doc__)
    parser.add_argument("--broker", default="kafka", help="kafka, or HOST:PORT of an Apache Kafka that runs")
    parser.add_argument("--model", action="append", choices=(FLIGHTS, MADE), help="default: both, one after the other")
    parser.add_argument("--rate", type=float, default=500.0, help="requests a second")
    parser.add_argument("--window", type=float, default=2.0, help="seconds in which a swap's p99 is looked for")
    for name in Counts.names():
        parser.add_argument(f"--{name}", type=int, default=getattr(Counts(), name))
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write DATE-swaps.json to")
    options = parser.parse_args(arguments)
    counts = Counts(**{name: getattr(options, name) for name in Counts.names()})
    document: dict[str, Any] = {"benchmark": "swaps", "requests_per_second": options.rate, "workers": WORKERS}
    found = []
    for model in options.model or [FLIGHTS, MADE]:
        _say(f"{model}:")
        one = campaign(model, options.broker, options.rate, options.window, counts, document)
        for promise in one["promises"]:
            _say(f"  {'ok  ' if promise['holds'] else 'FAIL'} {promise['promise']}: {promise['figure']:g}")
        found.append(one)
    document["models"] = found
    date = str(document["machine"]["date"])[:10]
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"{date}-swaps.json"
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
    promises = [promise for one in found for promise in one["promises"]]
    failed = sum(not promise["holds"] for promise in promises)
    _say(f"{failed} of {len(promises)} promises do not hold; written to {path}")
    return 1 if failed else 0


def campaign(
    model: str, broker: str, rate: float, window: float, counts: Counts, document: dict[str, Any]
) -> dict[str, Any]:
    """Everything that is done to one model, and what it came to. Broker and machine are put into `document`."""
    made = artifacts(model)
    with tempfile.TemporaryDirectory(prefix="penstock-swaps-") as scratch:
        folder = Path(scratch)
        witness = folder / "witness"
        store = Registry(folder / "store", folder / "cache")
        versions = Versions(store, made.make)
        first = versions.add()
        with witnessing(witness), Bed(_settings(folder), broker, model, say=_say, worker_module=WORKER) as bed:
            document.setdefault("broker", bed.broker)
            document.setdefault("machine", machine(bed.settings, broker))
            stage = Stage(bed)
            operator = Operator(bed.settings, store, model, witness, stage.pids, _say)
            operator.first(first)
            bed.start_workers(WORKERS, "exactly-once")
            run = bed.run_id[:12]
            with asking(bed, model, run, rate, USERS) as finish:
                bed.await_shares(bed.topics.requests)
                operator.rest(5.0)
                memory = act(stage, operator, versions, counts, window)
                operator.rest(window)
                answers = finish()
            bed.stop_workers()
            return report(
                Run(
                    model=model,
                    answers=answers,
                    log=[*read_log(bed, run)],
                    readiness=operator.readiness(),
                    expected=made.expected(bed.workload.inputs, folder),
                    events=operator.events,
                    quiet=stage.quiet,
                    memory=memory,
                ),
                counts.timed,
                round(window * SECOND),
            )


def act(stage: Stage, operator: Operator, versions: Versions, counts: Counts, window: float) -> list[list[int]]:
    """Do it all, one thing after the other; each worker's memory after each of the swaps, which come first."""
    memory: list[list[int]] = []
    for number in range(counts.swaps):
        version = versions.add()
        operator.rest(LISTED_SECONDS)
        if number < counts.timed:
            # Two windows in which nothing is done, then the one in which the swap is.
            operator.rest(window)
            stage.still(operator, 2 * window)
        begun = operator.swap(version)
        if number < counts.timed:
            operator.rest(max(0.0, window - (begun.until - begun.at) / SECOND))
        if number + 1 in (EARLY_SWAPS, counts.swaps):
            operator.rest(GIVEN_BACK_SECONDS)
        memory.append(stage.memory())
    for _ in range(counts.rollbacks):
        operator.roll_back()
        operator.rest(1.0)
    for number in range(counts.corrupt):
        how = SPOILT[number % len(SPOILT)]
        version = versions.add_spoilt(how)
        operator.rest(LISTED_SECONDS)
        operator.promote_spoilt(version, how)
    for _ in range(counts.kills):
        version = versions.add()
        operator.rest(LISTED_SECONDS)
        stage.swap_and_kill(operator, version)
    if counts.ramps:
        with stage.monitored():
            for number in range(counts.ramps):
                version = versions.add()
                operator.rest(LISTED_SECONDS)
                # A worker is killed in every other one.
                stage.ramp(operator, version, kill=bool(number % 2))
    if counts.devices:
        stage.change_devices()
    for _ in range(counts.devices):
        operator.rest(1.0)
        stage.lose_device(operator)
    return memory


def _settings(folder: Path) -> Settings:
    settings = load(None, stack=False)
    models = {"store": str(folder / "store"), "cache": str(folder / "cache"), "device": "cpu"}
    return settings.model_copy(update={"models": settings.models.model_copy(update=models)})


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
