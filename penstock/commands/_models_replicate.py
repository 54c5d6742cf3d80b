"""`penstock models replicate`: the registry's versions in the stores of other regions, once or for good."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from penstock import console
from penstock.commands._models_store import failing_in_one_line, store

if TYPE_CHECKING:
    from models.replication import Copied, Replication
    from stream_workers.ops import Health, ReplicaMetrics


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command()(replicate)


def replicate(
    replicas: Annotated[list[str], typer.Argument(metavar="REPLICA...", help="Folders or URLs of other registries.")],
    model: Annotated[list[str] | None, typer.Option(help="This model only; may be given again.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read and check the versions that are there too.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until stopped, and tell the lag in /metrics.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two rounds of --watch.")] = 30.0,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of /metrics with --watch; 0: any free one.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document; with --watch a line a round.")] = False,
) -> None:
    """Copy what replicas miss, check every byte, and tell how many seconds each is behind. Goes on where it was."""
    from models.replication import Replication
    from penstock.model_store import open_store

    with failing_in_one_line():
        source = store()
        models = console.settings().models
        pairs = [
            Replication(source, open_store(models.model_copy(update={"store": one})), time.time) for one in replicas
        ]
        names = tuple(model or ())
        if watch:
            _watch(pairs, names, verify, interval, port, as_json)
            return
        rounds = [one.round(names, verify=verify) for one in pairs]
    _tell(rounds, as_json)
    if failed := [f"{one.replica}: {problem}" for one in rounds for problem in one.problems]:
        console.fail("; ".join(failed), code=1)


def _watch(
    pairs: list[Replication], names: tuple[str, ...], verify: bool, interval: float, port: int, as_json: bool
) -> None:
    from penstock.ops_access import ops_server
    from stream_workers.ops import Health, OpsServerError, ReplicaMetrics, new_registry

    stop, registry = threading.Event(), new_registry()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    metrics, health = ReplicaMetrics(registry), Health(expected=("replicas",))
    try:
        with ops_server(console.settings(), port, registry, health) as server:
            console.note(f"lag in {server.url}/metrics")
            while not stop.is_set():
                rounds = [one.round(names, verify=verify) for one in pairs]
                _publish(rounds, metrics, health)
                _tell(rounds, as_json, in_one_line=True)
                for one in rounds:
                    for problem in one.problems:
                        console.note(f"{one.replica}: {problem}")
                stop.wait(interval)
    except OpsServerError as error:
        console.fail(str(error), code=1)


def _publish(rounds: list[Copied], metrics: ReplicaMetrics, health: Health) -> None:
    for one in rounds:
        metrics.round(one.replica, lag=one.lag, missing=one.missing, copied=one.bytes, problems=len(one.problems))
    problems = [f"{one.replica}: {problem}" for one in rounds for problem in one.problems]
    health.set("replicas", not problems, "; ".join(problems))


def _tell(rounds: list[Copied], as_json: bool, *, in_one_line: bool = False) -> None:
    if as_json:
        console.print_json([asdict(one) for one in rounds], in_one_line=in_one_line)
        return
    for one in rounds:
        behind = f"{one.missing} versions missing, {one.lag:.0f} s behind" if one.missing else "complete"
        if not in_one_line or one.versions or one.missing:
            console.note(f"{one.replica}: {len(one.versions)} versions copied ({one.bytes:,} bytes); {behind}")
