"""Guardrails over live windows: what may not be exceeded, what counts as a breach, and when it is over. Pure.

A breach begins when a window of enough rows exceeds a limit, and is over when it has kept below a share of the limit
for a while, or when the series has had no rows for a whole window. In between, and with too few rows to judge, it goes
on: a value that dances about the limit is one breach.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal, Self

from stream_workers.monitor_shift import Reference, Shift, shift_of
from stream_workers.monitor_windows import SENDERS, Figures, Series, dumps

P99: Final = "latency_p99"
ERRORS: Final = "error_rate"
SCORES: Final = "score_shift"
FEATURES: Final = "feature_shift"
# Rules of what a version does; what comes in is nobody's fault here.
STOPPING: Final = frozenset({P99, ERRORS, SCORES})
# A stop needs a variant that is so many times worse than the control at the same time: what befalls both is no fault
# of the variant.
BLAME: Final = 2.0
State = Literal["raising", "firing", "resolving"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a window may not exceed; None: no such rule. Latency in milliseconds, error rate as a share, PSI as it is.

    `min_rows`: of p99 and error rate. `min_score_rows`: of shifts, which small samples show without any.
    """

    p99_ms: float | None = None
    error_rate: float | None = None
    score_psi: float | None = None
    feature_psi: float | None = None
    min_rows: int = 200
    min_score_rows: int = 1000


@dataclass(frozen=True, slots=True)
class Reading:
    """One rule, held against one window. `threshold` is the limit, or what noise alone may reach where that is more.

    `feature`: what `feature_shift` is about. `enough`: whether there are rows enough to begin a breach.
    """

    rule: str
    value: float
    threshold: float
    n: int
    enough: bool
    feature: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def breached(self) -> bool:
        """Whether this would begin a breach."""
        return self.enough and self.value > self.threshold


@dataclass(frozen=True, slots=True)
class Breach:
    """A breach that is on. `began`: the pane in which it was seen first. `calm_since`: since when it keeps below.

    `state`: raising until the alert is out, firing, then resolving until it is out that it is over.
    """

    alert_id: str
    series: Series
    rule: str
    feature: str
    began: int
    state: State
    value: float
    threshold: float
    n: int
    calm_since: int = 0
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def labels(self) -> dict[str, str]:
        """The series, and the feature where the rule has one."""
        return self.series.labels() | ({"feature": self.feature} if self.feature else {})

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {**asdict(self), "series": self.series.to_json(), "evidence": dict(self.evidence)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The reverse of `to_json`."""
        return cls(**{**value, "series": Series.from_json(value["series"])})


@dataclass(frozen=True, slots=True)
class Recovery:
    """When a breach is over: below `share` of the limit for `seconds`."""

    share: float = 0.8
    seconds: float = 30.0


def read(
    series: Series, figures: Figures, limits: Limits, reference: Reference | None, *, in_variant: bool = False
) -> list[Reading]:
    """Every rule that applies to this window, whether breached or not, and whether it has a limit or not.

    `in_variant`: the window is a variant's, of which also INVALID_ARGUMENT tells: its signature may refuse what the
    control's takes. Bulk has no p99, since nobody waits for it.
    """
    found = []
    if not series.bulk:
        n = figures.timed
        per_batch = figures.infer_us / figures.batches / 1000 if figures.batches else 0.0
        evidence = {"p50_ms": figures.latency_ms(0.5), "infer_ms_per_batch": per_batch} if n else {}
        p99 = figures.latency_ms(0.99)
        found.append(Reading(P99, p99, _or_none(limits.p99_ms), n, n >= limits.min_rows, evidence=evidence))
    forgiven = SENDERS - {"INVALID_ARGUMENT"} if in_variant else SENDERS
    failed, n = figures.failed(but=forgiven), figures.rows
    value = failed / n if n else float("nan")
    seen = {"failed": failed, "errors": dict(figures.errors)}
    found.append(Reading(ERRORS, value, _or_none(limits.error_rate), n, n >= limits.min_rows, evidence=seen))
    if reference is not None and reference.scores:
        shift = shift_of(figures.scores, reference.scores, reference.rows)
        found.append(_shifted(SCORES, shift, limits.score_psi, limits.min_score_rows, reference))
    if reference is not None:
        for name, counts in figures.features.items():
            if name in reference.features:
                shift = shift_of(counts, reference.features[name], reference.rows)
                found.append(_shifted(FEATURES, shift, limits.feature_psi, limits.min_score_rows, reference, name))
    return found


def _or_none(limit: float | None) -> float:
    """The limit; without one what nothing exceeds, so that the value is shown all the same."""
    return math.inf if limit is None else limit


def _shifted(
    rule: str, shift: Shift, limit: float | None, least: int, reference: Reference, feature: str = ""
) -> Reading:
    evidence = {"psi": shift.psi, "noise": shift.noise, "reference": reference.what}
    return Reading(rule, shift.psi, max(_or_none(limit), shift.noise), shift.n, shift.n >= least, feature, evidence)


def at_fault(rule: str, own: Reading, control: Sequence[Reading]) -> tuple[bool, str]:
    """Whether a variant, and not what befalls everybody, is to blame for its breach, and why, in a line.

    `control`: the readings of the control's window at the same time. Both wait for one device, so that a slow variant
    makes the control late too: of p99, a longer run of its own model tells as well.
    """
    if rule not in STOPPING:
        return False, "it is about what came in, which is no version's fault"
    beside = next((one for one in control if one.rule == rule and one.enough), None)
    if beside is None:
        return True, "the control has too few rows to compare with"
    if not own.value <= BLAME * beside.value:
        return True, f"the control has {beside.value:.4g} at the same time"
    if rule == P99:
        mine, its = (float(one.evidence.get("infer_ms_per_batch", 0.0)) for one in (own, beside))
        if mine > BLAME * its:
            return True, f"its model runs {mine:.4g} ms a batch, the control's {its:.4g} ms"
    return False, f"the control has {beside.value:.4g} at the same time: it is not the variant alone"


def began(reading: Reading, series: Series, pane_start: int) -> Breach:
    """The breach that a reading begins, its id made of rule, labels and the first window's pane."""
    what = dumps([reading.rule, series.to_json(), reading.feature, pane_start])
    return Breach(
        alert_id=f"{reading.rule}/{hashlib.sha256(what.encode()).hexdigest()[:16]}",
        series=series,
        rule=reading.rule,
        feature=reading.feature,
        began=pane_start,
        state="raising",
        value=reading.value,
        threshold=reading.threshold,
        n=reading.n,
        evidence=reading.evidence,
    )


def followed(breach: Breach, reading: Reading | None, now: int, recovery: Recovery) -> Breach:
    """The breach as the next look at its window leaves it: as it was, calm since, or resolving.

    `reading`: None where the window holds no row of the rule's any more; `now` in microseconds.
    """
    if breach.state != "firing":
        return breach
    if reading is None or not reading.n:
        gone = {"over": "no rows in a whole window"}
        return replace(breach, state="resolving", value=0.0, n=0, evidence=gone)
    if not reading.value <= recovery.share * reading.threshold or not reading.enough:
        # Too few rows to begin a breach are too few to end one.
        return replace(breach, calm_since=0) if breach.calm_since else breach
    since = breach.calm_since or now
    if now - since < recovery.seconds * 1_000_000:
        return breach if breach.calm_since else replace(breach, calm_since=since)
    return replace(
        breach, state="resolving", calm_since=since, value=reading.value, n=reading.n, evidence=reading.evidence
    )


_UNITS: Final = {
    P99: "99% of {n} rows took up to {value:.0f} ms, at most {threshold:.0f} ms are allowed",
    ERRORS: "{value:.1%} of {n} rows failed, at most {threshold:.1%} may",
    SCORES: "scores have moved from the reference: PSI {value:.3f} over {n} rows, at most {threshold:.3f} may be",
    FEATURES: "feature {feature} has moved from the reference: PSI {value:.3f} over {n} rows, at most {threshold:.3f}"
    " may be",
}


def summary(breach: Breach) -> str:
    """One line for a person."""
    if breach.state == "resolving" and not breach.n:
        return f"{breach.series}: {breach.rule} is over: no rows in a whole window"
    figures = {"n": f"{breach.n:,}", "value": breach.value, "threshold": breach.threshold, "feature": breach.feature}
    over = " (over)" if breach.state == "resolving" else ""
    return f"{breach.series}: {_UNITS[breach.rule].format(**figures)}{over}"
