"""What one look at an experiment found: the frozen answer that the job writes down and a report draws.

Results are `analytics.results.Result`: treatment less control, absolute and relative. A value that these data do not
have is None, and the result's `reason` says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from analytics.definitions import Metric, Plan
from analytics.effects import Effect
from analytics.experiment_store import Crossed, DayUnits
from analytics.results import Result

Decision = Literal["ship", "roll back", "keep going", "no difference", "unhealthy"]
Role = Literal["metric", "guardrail"]
# Of a metric: whether the variant is better, worse, or that is open. Of a guardrail: safe, breached, or open.
Verdict = Literal["better", "worse", "safe", "breached", "open"]


@dataclass(frozen=True, slots=True)
class ArmReading:
    """One variant against the control on one metric, at one look.

    `absolute` and `relative` hold the interval that is valid at this look under the plan's test; their `p_value` is not
    corrected for several metrics and arms, `p_adjusted` is. `margin` is a guardrail's, in its plan's scale.
    `statistic`, `lower` and `upper` are on the z scale, `fraction` is the information's share of the planned one (None
    where the test has no such thing); `alpha_spent` up to this look. `chance_to_win` is the Bayesian chance that the
    variant beats the control, beside the test. `effect` and `tuned_for` are what the next look needs of this one.
    """

    metric: Metric
    role: Role
    control: str
    variant: str
    absolute: Result
    relative: Result
    verdict: Verdict
    p_adjusted: float | None = None
    margin: float | None = None
    statistic: float | None = None
    lower: float | None = None
    upper: float | None = None
    fraction: float | None = None
    alpha_spent: float | None = None
    chance_to_win: float | None = None
    effect: Effect | None = None
    tuned_for: float | None = None


@dataclass(frozen=True, slots=True)
class PastLook:
    """One metric and variant at an earlier look, or this one, as a report's curves need it.

    `low` and `high` bound the relative lift at that look. Statistics are on the z scale; None where there is none.
    """

    look: int
    looked_at: datetime
    metric: str
    variant: str
    lift: float | None
    low: float | None
    high: float | None
    statistic: float | None
    lower: float | None
    upper: float | None
    fraction: float | None
    alpha_spent: float | None


@dataclass(frozen=True, slots=True)
class SplitReading:
    """Units by variant in one slice against their expected shares; `p_value` is safe to look at every day.

    It is corrected for the other slices. `evidence`: the logarithm of the largest evidence against the shares so far.
    """

    kind: str
    value: str
    units: dict[str, int]
    shares: dict[str, float]
    p_value: float | None
    mismatch: bool
    evidence: float = 0.0


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything about one look. `number` counts the run's looks from 1; `arms` are the metrics in the plan's order.

    `splits[0]` is that of all units. `power` is what the primary metric's test has for the planned effect with the
    units so far, `days_left` until the planned size, `needed` units, at the present rate (0: reached; None: unknown).
    `winner` is the variant to ship, or ''; `reason` is one sentence.
    """

    plan: Plan
    number: int
    looked_at: datetime
    arms: tuple[ArmReading, ...]
    splits: tuple[SplitReading, ...]
    crossed: Crossed
    exposures: tuple[DayUnits, ...]
    history: tuple[PastLook, ...]
    decision: Decision
    reason: str
    winner: str = ""
    power: float | None = None
    days_left: float | None = None
    needed: int | None = None

    @property
    def trusted(self) -> bool:
        """Whether the split is sound, in every slice too, so that results may be shown as such."""
        if not self.splits:
            return False
        return not any(one.mismatch for one in self.splits) and not self.crossed.alarm

    def of(self, metric: str, variant: str) -> ArmReading:
        """The arm on a metric. Raises `KeyError`."""
        for one in self.arms:
            if (one.metric.name, one.variant) == (metric, variant):
                return one
        raise KeyError((metric, variant))
