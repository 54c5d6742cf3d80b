"""An experiment of simulated users, judged at each of its daily looks: what a report is drawn from in tests and docs.

Every number comes out of the library's own tests, on sums of the users of each day; only the users are made up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any, Final

import numpy as np

from analytics.bayes import beta_binomial, normal
from analytics.definition_reader import read
from analytics.definitions import Definition, Metric, Plan
from analytics.effects import effect
from analytics.experiment_store import Crossed, DayUnits
from analytics.guardrails import guardrail_look, watch
from analytics.multiplicity import holm
from analytics.power import Requirement, proportion_power, proportion_size
from analytics.readings import ArmReading, Decision, PastLook, Reading, SplitReading, Verdict
from analytics.results import Interval
from analytics.sample_ratio import watch as watch_split
from analytics.sequential import SequentialPlan, bounds, equal_looks, inflation
from analytics.sequential_analysis import Look, Monitoring, monitor
from analytics.spending import Spending
from analytics.statistics import compare
from analytics.sufficient import Mean, Proportion

SEED: Final = 20_261_115
LOOKS: Final = 14
STARTED: Final = datetime(2026, 11, 2, 8, tzinfo=UTC)
BASELINE: Final = 0.05
_ARMS: Final = ("ranker-6", "ranker-7")
# Five working days, a weekend with half of the users.
_WEEK: Final = (1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5)

DEFINITION: Final[Mapping[str, Any]] = {
    "name": "search-ranking",
    "hypothesis": "The new ranker puts what people look for higher, so that more of them buy something.",
    "model": "ranker",
    "control": "ranker-6",
    "variants": [
        {"name": "ranker-6", "version": "6", "share": "50%"},
        {"name": "ranker-7", "version": "7", "share": "50%"},
    ],
    "metrics": [
        {"name": "bought", "kind": "proportion", "outcome": "purchase", "window": "24h", "mde": "10%"},
        {"name": "revenue", "kind": "mean", "outcome": "purchase", "window": "24h", "cap_value": 400.0},
        {"name": "latency", "kind": "mean", "prediction": "latency_ms", "window": "24h", "direction": "decrease"},
        {"name": "returned", "kind": "proportion", "outcome": "refund", "window": "24h", "direction": "decrease"},
    ],
    "guardrails": [{"metric": "latency", "margin": "5%"}, {"metric": "returned", "margin": 0.002}],
    "test": {"kind": "group-sequential", "alpha": 0.05, "power": 0.8, "spending": "obrien-fleming", "looks": LOOKS},
    "minimum_runtime": "7d",
}


@dataclass(frozen=True, slots=True)
class Arms:
    """Cumulative statistics of one metric at each look: control, treatment."""

    control: Sequence[Proportion | Mean]
    treatment: Sequence[Proportion | Mean]


def definition() -> Definition:
    """The experiment as its analyst defined it."""
    return read(DEFINITION, "search-ranking.toml")


def simulate(looks: int, lifted: float, rng: np.random.Generator) -> tuple[dict[str, Arms], list[tuple[int, int]]]:
    """Users of `looks` days, of whom the treatment's buy with probability `lifted`: sums by metric, users by day."""
    planned = _planned_units()
    days = np.tile(_WEEK, LOOKS // len(_WEEK))
    daily = [tuple(int(one) for one in rng.poisson(planned * day / sum(days), 2)) for day in days[:looks]]
    parts: dict[str, list[list[Proportion | Mean]]] = {
        name: [[], []] for name in ("bought", "revenue", "latency", "returned")
    }
    for users in daily:
        for arm, (n, share) in enumerate(zip(users, (BASELINE, lifted), strict=True)):
            buyers = int(rng.binomial(n, share))
            baskets = np.minimum(rng.lognormal(3.6, 0.8, buyers), 400.0)
            waits = rng.gamma(4.0, 11.0 * (1.006 if arm else 1.0), n)
            parts["bought"][arm].append(Proportion(n, buyers))
            parts["revenue"][arm].append(Mean(n, float(baskets.sum()), float((baskets**2).sum())))
            parts["latency"][arm].append(Mean(n, float(waits.sum()), float((waits**2).sum())))
            parts["returned"][arm].append(Proportion(n, int(rng.binomial(n, 0.006))))
    return {name: Arms(*(list(accumulate(arm)) for arm in arms)) for name, arms in parts.items()}, daily  # type: ignore[misc]


def simulated_reading(looks: int = LOOKS, *, lifted: float = 0.0553, lost: float = 0.0, seed: int = SEED) -> Reading:
    """The reading after so many daily looks, fewer where the first metric's test ended before.

    `lost`: the share of the treatment's users that logging loses.
    """
    rng = np.random.default_rng(seed)
    arms, daily = simulate(looks, lifted, rng)
    looks = _ended(arms["bought"])
    arms = {name: Arms(one.control[:looks], one.treatment[:looks]) for name, one in arms.items()}
    daily = daily[:looks]
    plan = Plan(definition()).start(STARTED)
    seen = [(control, round(treatment * (1 - lost))) for control, treatment in daily]
    cumulative = [tuple(int(one) for one in row) for row in np.cumsum(np.array(seen), axis=0)]
    split = watch_split(cumulative, (0.5, 0.5))
    past: list[PastLook] = []
    readings = [_metric(metric, arms[metric.name], past) for metric in plan.definition.metrics[:2]]
    adjusted = holm([one.absolute.p_value for one in readings if one.absolute.p_value is not None])
    readings = [_judged(one, p) for one, p in zip(readings, adjusted, strict=True)]
    guarded = [_guardrail(plan, one.metric, arms[one.metric], past) for one in plan.definition.guardrails]
    units = sum(cumulative[-1])
    decision, reason = _decision(readings, guarded, mismatch=split.significant, units=units)
    need = Requirement(0.1 * BASELINE, power=0.8)
    needed = 2 * _planned_units()
    return Reading(
        plan=plan,
        number=looks,
        looked_at=STARTED + timedelta(days=looks, hours=26),
        arms=(*readings, *guarded),
        splits=(_split("all", "", cumulative[-1], split.p_value, split.significant), *_slices(cumulative[-1], rng)),
        crossed=Crossed(units + 41, 41),
        exposures=tuple(
            DayUnits((STARTED + timedelta(days=at)).date(), arm, users)
            for at, row in enumerate(seen)
            for arm, users in zip(_ARMS, row, strict=True)
        ),
        history=tuple(past),
        decision=decision,
        reason=reason,
        winner=_ARMS[1] if decision == "ship" else "",
        power=proportion_power(BASELINE, cumulative[-1], need),
        days_left=max(0.0, (needed - units) / (units / looks)),
        needed=needed,
    )


def _planned_units() -> int:
    """Of one arm, for +10% with the sequential design."""
    found = bounds(SequentialPlan(Spending()), equal_looks(LOOKS))
    return proportion_size(BASELINE, Requirement(0.1 * BASELINE, inflation=inflation(found, 0.8))).control


def _metric(metric: Metric, arms: Arms, past: list[PastLook]) -> ArmReading:
    """The difference's test; the lift's interval is the difference's by the control's value."""
    pairs = list(zip(arms.control, arms.treatment, strict=True))
    watched = _watched([Look.of(effect(*pair)) for pair in pairs], pairs[-1][0].n)
    found = watched.bounds
    for at, (pair, reach) in enumerate(zip(pairs, watched.repeated, strict=True)):
        look, control = Look.of(effect(*pair)), pair[0].value
        past.append(
            PastLook(
                at + 1, STARTED + timedelta(days=at + 1, hours=26), metric.name, _ARMS[1], look.estimate / control,
                reach.low / control, reach.high / control, look.statistic, found.lower[at], found.upper[at],
                found.fractions[at], found.spent[at],
            )
        )  # fmt: skip
    absolute, control = watched.result, pairs[-1][0].value
    assert absolute.estimate is not None  # noqa: S101 - a look that was watched has one
    assert absolute.interval is not None  # noqa: S101
    relative = replace(
        absolute,
        scale="relative",
        estimate=absolute.estimate / control,
        interval=Interval(absolute.interval.low / control, absolute.interval.high / control),
    )
    kind = beta_binomial if isinstance(pairs[-1][0], Proportion) else normal
    return ArmReading(
        metric=metric,
        role="metric",
        control=_ARMS[0],
        variant=_ARMS[1],
        absolute=absolute,
        relative=relative,
        verdict="open",
        statistic=absolute.statistic,
        lower=found.lower[-1],
        upper=found.upper[-1],
        fraction=found.fractions[-1],
        alpha_spent=found.spent[-1],
        chance_to_win=kind(pairs[-1])[1].chance_to_win,  # type: ignore[operator]
    )


def _watched(looks: Sequence[Look], units: int) -> Monitoring:
    """The test of one metric; what the planned number of users will have told grows with them."""
    return monitor(SequentialPlan(maximum=looks[-1].information * _planned_units() / units), looks)


def _ended(arms: Arms) -> int:
    """How many looks it takes: up to the one that ends the test, or all of them."""
    pairs = list(zip(arms.control, arms.treatment, strict=True))
    ended = _watched([Look.of(effect(*pair)) for pair in pairs], pairs[-1][0].n).ended_at
    return len(pairs) if ended is None else ended + 1


def _judged(one: ArmReading, p: float) -> ArmReading:
    found: Verdict = "open"
    if p <= 0.05 and one.absolute.estimate is not None:
        found = "better" if one.absolute.estimate > 0 else "worse"
    return replace(one, p_adjusted=p, verdict=found)


def _guardrail(plan: Plan, name: str, arms: Arms, past: list[PastLook]) -> ArmReading:
    guardrail = next(one for one in plan.definition.guardrails if one.metric == name)
    metric, margin = plan.definition.metric(name), guardrail.margin
    scale = "relative" if margin.relative else "absolute"
    pairs = list(zip(arms.control, arms.treatment, strict=True))
    looks = [guardrail_look(*pair, margin.size, scale=scale, higher_is_better=False) for pair in pairs]  # type: ignore[arg-type]
    tuned = looks[-1].information * LOOKS / len(looks)
    verdict = watch(looks, margin.size, tuned, higher_is_better=False).verdict
    for at, pair in enumerate(pairs):
        result = compare(*pair, scale="relative", alpha=0.01)
        reach = result.interval
        past.append(
            PastLook(
                at + 1, STARTED + timedelta(days=at + 1, hours=26), name, _ARMS[1], result.estimate,
                reach.low if reach else None, reach.high if reach else None, None, None, None, None, None,
            )
        )  # fmt: skip
    words: dict[str, Verdict] = {"holds": "safe", "breached": "breached", "undecided": "open"}
    return ArmReading(
        metric=metric,
        role="guardrail",
        control=_ARMS[0],
        variant=_ARMS[1],
        absolute=compare(*pairs[-1], alpha=0.01),
        relative=compare(*pairs[-1], scale="relative", alpha=0.01),
        verdict=words[verdict],
        margin=margin.size,
    )


def _decision(
    readings: Sequence[ArmReading], guarded: Sequence[ArmReading], *, mismatch: bool, units: int
) -> tuple[Decision, str]:
    first = readings[0]
    if mismatch:
        return "unhealthy", "The units do not split as planned, so no result of this run can be trusted."
    if any(one.verdict == "breached" for one in guarded):
        return "roll back", "A guardrail is worse than its margin allows."
    if first.verdict == "better":
        return "ship", f"{first.variant} is better on {first.metric.name} and every guardrail holds so far."
    return "keep going", f"After {units:,} units {first.metric.name} is still open, and nothing is breached."


def _split(kind: str, value: str, units: tuple[int, ...], p: float | None, mismatch: bool) -> SplitReading:
    return SplitReading(kind, value, dict(zip(_ARMS, units, strict=True)), dict.fromkeys(_ARMS, 0.5), p, mismatch)


def _slices(units: tuple[int, ...], rng: np.random.Generator) -> list[SplitReading]:
    """The same users by partition."""
    parts = [rng.multinomial(n, [0.25] * 4) for n in units]
    found = []
    for at in range(4):
        counts = (int(parts[0][at]), int(parts[1][at]))
        result = watch_split([counts], (0.5, 0.5))
        found.append(_split("partition", str(at), counts, result.p_value, result.significant))
    return found
