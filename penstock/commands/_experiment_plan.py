"""`penstock experiments plan`: how many users an experiment needs, how long it takes, and what it would find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from penstock import console

if TYPE_CHECKING:
    from analytics.definitions import Effect, Metric
    from analytics.planning import Planned, Wanted

_T = TypeVar("_T")
_BAR: Final = 50


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command()(plan)


def plan(
    baseline: Annotated[float | None, typer.Option(help="The control's value, such as 0.05.")] = None,
    mde: Annotated[
        str | None, typer.Option(help="The smallest effect worth finding: '10%' is relative, 0.005 absolute.")
    ] = None,
    relative: Annotated[
        bool | None, typer.Option("--relative/--absolute", help="What --mde is, where its form does not say so.")
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="Error of the first kind; else the file's, else 0.05.")] = None,
    power: Annotated[float | None, typer.Option(help="Chance to find the effect; else the file's, else 0.8.")] = None,
    rate: Annotated[float | None, typer.Option(help="New users a second, for the duration.")] = None,
    share: Annotated[
        str | None, typer.Option(help="How many of them take part, such as 10%; else the file's, else all.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="proportion, mean or ratio; with --file one of its metrics, else the first no guardrail."),
    ] = None,
    sd: Annotated[
        float | None,
        typer.Option(help="Standard deviation of a user's value; of a ratio, of numerator less ratio x denominator."),
    ] = None,
    mean_denominator: Annotated[float, typer.Option(help="Of a ratio: a user's mean denominator.")] = 1.0,
    shares: Annotated[str | None, typer.Option(help="The arms' shares of each other, control first: 0.8,0.2")] = None,
    test: Annotated[
        str | None, typer.Option(help="fixed (looks once), group-sequential or always-valid; else the file's.")
    ] = None,
    spending: Annotated[
        str | None, typer.Option(help="obrien-fleming, pocock, power or hwang-shih-decani (group-sequential).")
    ] = None,
    spending_parameter: Annotated[float | None, typer.Option(help="Of the families power, hwang-shih-decani.")] = None,
    looks: Annotated[int | None, typer.Option(min=1, max=400, help="How often it is looked at; else 14.")] = None,
    formula: Annotated[str, typer.Option(help="Of proportions: unpooled or pooled variance.")] = "unpooled",
    n: Annotated[int | None, typer.Option(min=2, help="Users in the control: what effect can they find?")] = None,
    curve: Annotated[bool, typer.Option(help="Draw the power at other effects.")] = False,
    file: Annotated[
        Path | None, typer.Option(help="A definition (TOML): its metric, arms, test, minimum runtime.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Sample size by a named formula, what looking often adds to it, duration, and the power curve."""
    from analytics import definition_values as values
    from analytics.definitions import DefinitionError
    from analytics.planning import Wanted
    from analytics.planning import plan as planned
    from analytics.results import StatisticError

    try:
        wanted = Wanted() if file is None else _of_file(file, metric)
        if file is None and metric is not None:
            wanted = replace(wanted, metric=_read("--metric", values.one_of(("proportion", "mean", "ratio")), metric))
        kinds = values.one_of(("fixed", "group-sequential", "always-valid"))
        families = values.one_of(("obrien-fleming", "pocock", "power", "hwang-shih-decani"))
        changes: dict[str, Any] = {
            "kind": test and _read("--test", kinds, test),
            "alpha": alpha,
            "power": power,
            "spending": spending and _read("--spending", families, spending),
            "spending_parameter": spending_parameter,
            "looks": looks,
        }
        procedure = replace(wanted.test, **{key: value for key, value in changes.items() if value is not None})
        wanted = replace(
            wanted,
            baseline=baseline,
            effect=wanted.effect if mde is None else _effect(mde, relative),
            deviation=sd,
            mean_denominator=mean_denominator,
            shares=wanted.shares if shares is None else _read("--shares", _parts, shares),
            formula=_read("--formula", values.one_of(("unpooled", "pooled")), formula),
            test=procedure,
            units=n,
            rate=rate,
            share=wanted.share if share is None else _read("--share", _share, share),
        )
        found = planned(wanted)
    except (DefinitionError, StatisticError) as error:
        console.fail(str(error))
    if as_json:
        console.print_json(found.as_dict())
    else:
        typer.echo(text(found, curve))


def text(found: Planned, curve: bool = False) -> str:
    """A plan for people: what was asked, the sizes, the duration, and on demand the power curve."""
    asked, size = found.wanted, found.size
    fixed = asked.test.kind == "fixed"
    rows = [(f"{asked.metric} to find" if asked.units is None else f"{asked.metric} found", _effect_shown(found))]
    rows.append(("alpha, power", f"{asked.test.alpha:g} {size.alternative}, {asked.test.power:g}"))
    for one in found.one_look:
        chosen = len(found.one_look) > 1 and one.formula == size.formula
        rows.append((f"one look, {one.formula}", _arms(one.arms) + (", chosen" if chosen else "")))
    if asked.units is not None:
        rows.append((f"{found.design}, {size.formula}", _arms(size.arms)))
    elif not fixed:
        rows.append((found.design, f"{_arms(size.arms)}, {found.inflation:.4f} times as many"))
    if found.spent is not None:
        rows.append(
            ("ends on average after", f"{found.spent * size.total:,.0f} in all, where the effect is as found here")
        )
    if found.duration is not None:
        rows.append(("takes in users for", f"{_time(found.duration.planned)}: {found.duration.reason}"))
    if found.complete is not None and asked.ripening:
        rows.append(("complete after", f"{_time(found.complete)}: outcomes have {_time(asked.ripening)} to come in"))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    if fixed:
        lines.append("A fixed test is looked at once, at its end; to look on the way take --test group-sequential.")
    if curve:
        lines += ["", *_plot(found)]
    return "\n".join(lines)


def _effect_shown(found: Planned) -> str:
    base = found.wanted.baseline
    if base is None:
        return f"{found.effect:+.4g}"
    lift = "" if found.lift is None else f" ({found.lift * 100:+.3g}%)"
    return f"from {base:g} to {base + found.effect:.4g}{lift}"


def _arms(arms: tuple[int, ...]) -> str:
    if len(set(arms)) == 1:
        return f"{arms[0]:,} users a variant, {sum(arms):,} in all"
    return f"{' + '.join(f'{one:,}' for one in arms)} users, control first, {sum(arms):,} in all"


def _time(time: timedelta) -> str:
    hours = time.total_seconds() / 3600
    return f"{hours:.3g} hours" if hours < 72 else f"{hours / 24:.3g} days"


def _plot(found: Planned) -> list[str]:
    """Power by effect, a line each; the line down is the planned power."""
    mark = round(found.wanted.test.power * _BAR)
    lines = [f"{'effect':>10}   power"]
    for effect, power in found.curve[::2]:
        bar = "█" * round(power * _BAR)
        lines.append(f"{effect:>+10.4g}  {power:6.1%} {bar[:mark]:<{mark}}│{bar[mark:]}")
    return lines


def _of_file(file: Path, metric: str | None) -> Wanted:
    from analytics.definition_reader import from_toml
    from analytics.definitions import DefinitionError
    from analytics.planning import Wanted

    definition = from_toml(file)
    guarded = {one.metric for one in definition.guardrails}
    first = next((one for one in definition.metrics if one.name not in guarded), definition.metrics[0])
    chosen: Metric = first if metric is None else definition.metric(metric)
    if chosen.kind == "quantile":
        raise DefinitionError(
            f"{file.name}: metrics[{definition.metrics.index(chosen)}].kind: a quantile has no formula for its size; "
            "plan for another of its metrics (--metric NAME)"
        )
    arms = definition.shares()
    control = arms.pop(definition.control)
    layer = sum(hi - lo for lo, hi in definition.layer_ranges) / 10_000
    effect = chosen.mde
    if effect is not None and chosen.direction == "decrease":
        effect = replace(effect, size=-effect.size)
    return Wanted(
        metric=chosen.kind,
        effect=effect,
        shares=(control, *arms.values()),
        test=definition.test,
        share=(control + sum(arms.values())) * layer,
        minimum_runtime=definition.minimum_runtime,
        ripening=chosen.window + definition.maturity_delay,
    )


def _effect(text: str, relative: bool | None) -> Effect:
    from analytics.definitions import Effect

    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        size = float(number) / (100 if percent else 1)
    except ValueError:
        console.fail(f"--mde: expected a relative size such as '10%', or an absolute one such as 0.005, got {text!r}")
    return Effect(size, relative=percent if relative is None else relative)


def _read(option: str, reader: Callable[[Any], _T], value: Any) -> _T:
    from analytics.definition_values import Expected

    try:
        return reader(value)
    except Expected as expected:
        console.fail(f"{option}: expected {expected}, got {value!r}")


def _share(text: str) -> float:
    from analytics import definition_values as values

    return values.share(text if text.endswith("%") else _number(text))


def _parts(text: str) -> tuple[float, ...]:
    from analytics import definition_values as values

    return tuple(values.positive(_number(one.strip())) for one in text.split(","))


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
