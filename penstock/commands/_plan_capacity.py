"""`penstock plan capacity`: devices, partitions, brokers and money for a load, and what a dead device costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock import console
from penstock.commands import _plan_values as values

if TYPE_CHECKING:
    from models.batching import BatchLimits
    from models.simulation import ServiceCurve


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command()(capacity)


def capacity(
    rate: Annotated[float, typer.Option(help="Requests a second.")] = 1000.0,
    service: Annotated[
        str | None, typer.Option(help="What batches take, measured: ROWS:TIME,... such as 1:50ms,32:60ms.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A model of the store: its batch limits, and, without --service, its times here.")
    ] = None,
    p99: Annotated[
        str | None, typer.Option(help="What 99 of 100 requests take at most; else to keep up is enough.")
    ] = None,
    rows_each: Annotated[int, typer.Option(min=1, help="Rows of a request.")] = 1,
    arrivals: Annotated[str, typer.Option(help="poisson (many users) or steady.")] = "poisson",
    max_rows: Annotated[
        int | None, typer.Option(min=1, help="Rows of a batch at most, 1 for no batching; else what was measured.")
    ] = None,
    max_wait: Annotated[str | None, typer.Option(help="How long a batch waits for more behind another one.")] = None,
    p99_target: Annotated[
        str | None, typer.Option(help="The worker's own p99 target, by which it cuts batches.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, max=8, help="Batches under way on a device: 1 CPU, 2 GPU.")] = 1,
    overhead: Annotated[str, typer.Option(help="A request's way through Kafka, there and back.")] = "5ms",
    partitions: Annotated[int | None, typer.Option(min=1, help="There are; else as many as are wise.")] = None,
    devices: Annotated[int | None, typer.Option(min=1, help="Simulate so many, instead of finding how many.")] = None,
    cost: Annotated[float | None, typer.Option(help="Of a device, an hour.")] = None,
    fail: Annotated[bool, typer.Option("--fail", help="Let one device die, and see.")] = False,
    takeover: Annotated[str, typer.Option(help="Until others have a dead device's partitions.")] = "10s",
    back: Annotated[str | None, typer.Option(help="Until the dead device is replaced.")] = None,
    watch: Annotated[str, typer.Option(help="How long to look on after the failure.")] = "120s",
    sweep: Annotated[str | None, typer.Option(help="Several rates instead, such as 1000,10000,100000,1000000.")] = None,
    worker_limit: Annotated[float | None, typer.Option(help="Requests/s a worker's process bears.")] = None,
    partition_limit: Annotated[float | None, typer.Option(help="Requests/s a partition bears.")] = None,
    broker_limit: Annotated[float | None, typer.Option(help="Records/s a broker takes in or gives out.")] = None,
    replication: Annotated[int, typer.Option(min=1, help="Copies of a record in Kafka.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the simulation's random numbers.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Devices for a rate and a p99, by simulation with the worker's own batching policy; what one failure does."""
    from models.capacity import Wanted, unbatched
    from models.failure import Failure, fail_one
    from models.fleet import Limits, size
    from models.fleet import sweep as sizes
    from models.simulation import Load, Worker

    with values.failing_in_one_line():
        curve, limits = _curve_and_limits(service, model)
        # Beyond what was measured nothing is known, unless the caller says that the line goes on.
        most = max_rows or min(limits.max_rows, curve.largest)
        worker = Worker(
            curve, _limited(limits, most, max_wait, p99_target), runs, values.seconds("--overhead", overhead)
        )
        usual = Limits()
        bounds = Limits(
            worker=worker_limit or usual.worker,
            partition=partition_limit or usual.partition,
            broker=broker_limit or usual.broker,
            replication=replication,
        )
        wanted = Wanted(
            load=Load(rate, rows_each, arrivals),  # type: ignore[arg-type]
            worker=worker,
            p99=None if p99 is None else values.seconds("--p99", p99),
            partitions=partitions,
            cost=cost,
        )
        if sweep is not None:
            _sweep([*sizes(wanted, bounds, values.numbers("--sweep", sweep), seed)], as_json)
            return
        found = size(wanted, bounds, seed, devices)
        failure = None
        if fail:
            how = Failure(
                takeover=values.seconds("--takeover", takeover),
                back=None if back is None else values.seconds("--back", back),
                watch=values.seconds("--watch", watch),
            )
            failure = fail_one(wanted, found.capacity.devices, how, seed)
        alone = unbatched(wanted)
        document: dict[str, Any] = {
            **found.to_json(),
            "devices_to_keep_up_without_batching": alone.keep_up(),
            "failure": failure
            and {
                "takeover_seconds": how.takeover,
                "back_seconds": how.back,
                "watched_seconds": how.watch,
                **failure.to_json(),
            },
        }
    if as_json:
        console.print_json(document)
        return
    _show(document, p99)
    _notes(document)


def _curve_and_limits(service: str | None, model: str | None) -> tuple[ServiceCurve, BatchLimits]:
    from models.batching import DEFAULT_LIMITS
    from models.errors import PlanError
    from models.loading import LoadedModel
    from models.simulation import ServiceCurve
    from penstock.model_store import open_store

    curve = None if service is None else ServiceCurve(values.service_points("--service", service))
    if model is None:
        if curve is None:
            raise PlanError(
                "--service: say what batches take, such as 1:50ms,32:60ms, or name a --model to measure here"
            )
        return curve, DEFAULT_LIMITS
    store = open_store(console.settings().models)
    version = store.default_version(model)
    if curve is not None:
        return curve, store.manifest(model, version).batching
    loaded = LoadedModel.load(store, model, version)
    console.note(f"{model} {version} on {loaded.device}: " + _points(loaded.warm_up))
    return ServiceCurve(_rising(loaded.warm_up)), loaded.manifest.batching


def _rising(points: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Single measurements may fall where they should rise; a larger batch takes no less than a smaller one."""
    found: list[tuple[int, float]] = []
    for rows, time in points:
        found.append((rows, max(time, found[-1][1] if found else 0.0)))
    return tuple(found)


def _points(points: Sequence[tuple[int, float]]) -> str:
    return ", ".join(f"{rows} rows in {values.milliseconds(time)}" for rows, time in points)


def _limited(limits: BatchLimits, max_rows: int, max_wait: str | None, p99_target: str | None) -> BatchLimits:
    from dataclasses import replace

    changes: dict[str, Any] = {
        "max_rows": max_rows,
        "max_wait": None if max_wait is None else values.seconds("--max-wait", max_wait),
        "p99_target": None if p99_target is None else values.seconds("--p99-target", p99_target),
    }
    try:
        return replace(limits, **{name: value for name, value in changes.items() if value is not None})
    except ValueError as error:
        console.fail(str(error))


def _show(found: dict[str, Any], p99: str | None) -> None:
    count = values.counted
    rows: list[tuple[str, str]] = [
        ("to keep up, without batching", count(found["devices_to_keep_up_without_batching"], "device")),
        (
            "to keep up, batched",
            f"{count(found['devices_to_keep_up'], 'device')}, {found['requests_per_second_each']:,.0f} requests/s each "
            f"in batches of {count(found['best_batch_rows'], 'row')}",
        ),
        (
            "planned" if p99 is None else f"for a p99 of {p99}",
            f"{count(found['devices'], 'device')}, {count(found['partitions'], 'partition')}, "
            f"{count(found['brokers'], 'broker')}",
        ),
        (
            "a device",
            f"gets {found['load']:.0%} of what it can serve, is busy {found['busy']:.0%} of the time, "
            f"{found['rows_per_batch']:.1f} rows a batch",
        ),
        (
            "latency",
            f"mean {_time(found['mean_ms'])}, p50 {_time(found['p50_ms'])}, p99 {_time(found['p99_ms'])} "
            f"({_time(found['p99_low_ms'])} to {_time(found['p99_high_ms'])})",
        ),
    ]
    if found["cost_per_hour"] is not None:
        rows.append(
            ("devices cost", f"{found['cost_per_hour']:,.2f} an hour, {found['cost_per_million']:,.3f} a million")
        )
    failure = found["failure"]
    if failure:
        rows += [
            (
                "one device dies",
                f"{count(failure['takers'], 'other')} take over after {failure['takeover_seconds']:g} s",
            ),
            ("waiting at most", f"{failure['largest_backlog']:,} requests, the longest {_time(failure['longest_ms'])}"),
            ("as before again", _recovery(failure)),
            (
                "p99 before, during, after",
                ", ".join(_time(failure[f"p99_{when}_ms"]) for when in ("before", "during", "after")),
            ),
        ]
    console.print_table(("", ""), rows, title=f"{found['requests_per_second']:,.0f} requests/s")


def _time(milliseconds: float) -> str:
    return "none" if milliseconds != milliseconds else values.milliseconds(milliseconds / 1e3)  # not a number: nobody


def _recovery(failure: dict[str, Any]) -> str:
    after = failure["caught_up_after_seconds"]
    if after == float("inf"):
        if failure["keeps_up"] or failure["back_seconds"] is not None:
            return f"not within the {failure['watched_seconds']:g} s that were watched"
        return "never: the others cannot keep up with all of it"
    return f"after {after:.1f} s"


def _notes(found: dict[str, Any]) -> None:
    if found["largest_batch_rows"] > found["largest_measured_rows"]:
        console.note(
            f"batches of up to {found['largest_batch_rows']:,} rows were simulated, of up to "
            f"{found['largest_measured_rows']:,} measured: beyond, the last line is drawn on; measure larger ones"
        )
    if found["load"] > 0.95:
        console.note(
            f"a device that gets {found['load']:.0%} of what it can serve hardly works off a queue: ask for a --p99"
        )


def _sweep(found: Sequence[Any], as_json: bool) -> None:
    documents = [one.to_json() for one in found]
    if as_json:
        console.print_json(documents)
        return
    rows = [
        (
            f"{one['requests_per_second']:,.0f}",
            f"{one['devices']:,}",
            f"{one['partitions']:,}",
            f"{one['brokers']:,}",
            f"{one['load']:.0%}",
            values.milliseconds(one["mean_ms"] / 1e3),
            values.milliseconds(one["p99_ms"] / 1e3),
            "" if one["cost_per_hour"] is None else f"{one['cost_per_hour']:,.2f}",
            "" if one["cost_per_million"] is None else f"{one['cost_per_million']:,.3f}",
        )
        for one in documents
    ]
    columns = ("requests/s", "devices", "partitions", "brokers", "load", "mean", "p99", "cost/h", "cost/million")
    console.print_table(columns, rows)
    for one in documents:
        _notes(one)
