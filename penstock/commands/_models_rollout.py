"""`penstock models promote | rollout`: rolls a version out to more and more users, and shows how far it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from penstock import console
from penstock.commands._models_control import live_models, live_rollouts, shown, tell
from penstock.commands._models_store import AsJson, Name, failing_in_one_line

if TYPE_CHECKING:
    from models.rollout import Rollout
    from penstock.live_rollouts import Terms

_LOOK_SECONDS: Final = 1.0
_FORCED: Final = (
    "--force: everybody met it at once, before anything was known of its errors, latency and scores on live requests; "
    "what is wrong with it is now wrong for all"
)
_GUARDS: Final = ("error_rate", "p99_ms", "p99_ratio", "score_psi", "min_rows")


def register(group: typer.Typer) -> None:
    """Add the commands."""
    for command in (promote, rollout):
        group.command()(command)


def promote(
    name: Name,
    version: Annotated[str, typer.Argument(help="Version.")],
    steps: Annotated[
        str | None, typer.Option(help="Shares of users, one step after the other: 1%,10%,50%. Everybody comes last.")
    ] = None,
    hold: Annotated[float | None, typer.Option(min=0, help="Seconds that each step is held at least.")] = None,
    min_requests: Annotated[
        int | None, typer.Option("--min-requests", min=1, help="Requests that it has to answer in each step.")
    ] = None,
    guard: Annotated[
        list[str] | None,
        typer.Option(help=f"A limit that differs from [rollout]'s, NAME=VALUE of {', '.join(_GUARDS)}; 0: none."),
    ] = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="Score requests with it as well, and never reply.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Let it serve everybody at once. A bad idea.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show each step until it is over.")] = False,
    expect: Annotated[str | None, typer.Option(help="Only where this version is live now.")] = None,
    new_signature: Annotated[
        bool, typer.Option("--new-signature", help="Although callers of the live version would have to change.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Roll a version out: first to a few users, then to more, and back by itself where a guardrail is breached.

    Its files are verified before. The monitor drives the rollout; every worker loads the version before anybody meets
    it.
    """

    if shadow and force:
        console.fail("--shadow and --force exclude each other: a shadow serves nobody")
    if force and (steps or hold is not None or min_requests is not None or guard):
        console.fail("--force has no steps: leave out --steps, --hold, --min-requests and --guard")
    with failing_in_one_line():
        if force:
            done = live_models().promote(name, version, new_signature=new_signature, expect=expect)
            tell(done, as_json)
            if not as_json:
                console.note(_FORCED)
            return
        terms = _terms(name, version, steps, hold, min_requests, guard or [], shadow)
        begun = live_rollouts().begin(
            name, version, terms, mode="shadow" if shadow else "canary", new_signature=new_signature, expect=expect
        )
    if watch:
        _watch(name, as_json)
    elif as_json:
        console.print_json(shown(begun))
    else:
        console.note(
            f"{name}: version {version} is being rolled out beside {begun.current}; the monitor drives it "
            f"(penstock models rollout {name} --watch)"
        )


def rollout(
    name: Name,
    abort: Annotated[bool, typer.Option("--abort", help="End it: everybody meets the version before again.")] = False,
    pause: Annotated[bool, typer.Option("--pause", help="Hold the step that is on; guardrails stay.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show each step until it is over.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the rollout of a model, or pause, resume or abort it."""

    if abort + pause + resume > 1:
        console.fail("--abort, --pause and --resume exclude each other")
    with failing_in_one_line():
        if abort or pause or resume:
            found = live_rollouts().change(name, "abort" if abort else "pause" if pause else "resume")
        else:
            held, _ = live_models().rollout(name)
            if held is None:
                console.fail(f"no version of model {name!r} was rolled out", code=1)
            found = held
    if watch:
        _watch(name, as_json)
    elif as_json:
        console.print_json(shown(found))
    else:
        console.note(line(found))


def line(one: Rollout) -> str:
    """A rollout in a line."""
    from models.rollout import LOADING

    head = f"{one.model}: version {one.candidate} beside {one.current}"
    why = f": {one.reason}" if one.reason else ""
    if not one.is_on:
        return f"{head}, {one.state}{why}"
    paused = ", paused" if one.state == "paused" else ""
    if one.step == LOADING:
        return f"{head}, workers load it{paused}"
    if one.mode == "shadow":
        return f"{head}, a shadow{paused}"
    return f"{head}, step {one.step + 1} of {len(one.steps)}, {one.share:.2%} of users{paused}"


def _watch(name: str, as_json: bool) -> None:
    """A line for each change, until it is over; exit status 1 where it was not done."""

    said = ""
    while True:
        with failing_in_one_line():
            found, _ = live_models().rollout(name)
        if found is None:
            console.fail(f"no version of model {name!r} is being rolled out", code=1)
        if said != line(found) and not as_json:
            console.note(line(found))
        said = line(found)
        if not found.is_on:
            break
        time.sleep(_LOOK_SECONDS)
    if as_json:
        console.print_json(shown(found))
    if found.state != "done":
        raise typer.Exit(1)


def _terms(
    name: str,
    version: str,
    steps: str | None,
    hold: float | None,
    min_requests: int | None,
    guards: list[str],
    shadow: bool,
) -> Terms:
    """The options over `[rollout]`. Fails with the option's name."""
    from models.rollout import Guard, RolloutError, steps_of
    from penstock.commands._models_store import store
    from penstock.live_rollouts import Terms

    own = console.settings().rollout
    limits: dict[str, float] = {key: _number(getattr(own, key)) for key in _GUARDS if getattr(own, key) is not None}
    for one in guards:
        key, _, value = one.partition("=")
        if key not in _GUARDS:
            console.fail(f"--guard: expected NAME=VALUE with one of {', '.join(_GUARDS)}, got {one!r}")
        limits[key] = _value("--guard", value)
    if "p99_ms" not in limits:
        target = store().manifest(name, version).batching.p99_target
        limits["p99_ms"] = 1000.0 if target is None else target * 1000
    rows = int(limits.pop("min_rows"))
    held = hold if hold is not None else own.shadow_seconds if shadow else own.hold_seconds
    try:
        shares = own.steps if steps is None else [_value("--steps", one) for one in steps.split(",")]
        guard = Guard(min_rows=rows, **{key: value or None for key, value in limits.items()})
        return Terms(steps_of(shares), held, max(min_requests or own.min_requests, rows), guard)
    except RolloutError as error:
        console.fail(f"--{error}")


def _number(value: float) -> float:
    return float(value)


def _value(option: str, text: str) -> float:
    """A number, or a percentage."""
    try:
        return float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        console.fail(f"{option}: expected a number or a percentage, got {text!r}")
