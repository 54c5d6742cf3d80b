"""What an analyst says about an experiment before it starts: arms, metrics, guardrails and the test that will decide.

Three things are kept apart. A `Definition` is what the TOML file says. A `Plan` is a definition with the times it was
started and stopped, and is what the control topic holds under the kind `experiment-plan`, beside the entry of kind
`experiment`, which is the assignment that workers obey; workers know nothing of plans and pass them over. A run is
(name, `started_at`): exposures before it never count, a restart is another run, and a ramp changes shares within a run.
An experiment under another name is another experiment.

`analytics.definition_reader` reads and checks definitions, from TOML and from the control topic.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from xxhash import xxh3_64_hexdigest

PLAN_KIND: Final = "experiment-plan"
BUCKETS: Final = 10_000

Range = tuple[int, int]
MetricKind = Literal["proportion", "mean", "ratio", "quantile"]
Direction = Literal["increase", "decrease"]
Aggregate = Literal["sum", "mean", "count", "max", "any"]
TestKind = Literal["fixed", "group-sequential", "always-valid"]
Spending = Literal["obrien-fleming", "pocock", "power", "hwang-shih-decani"]

# What a metric may take from the prediction log.
PREDICTION_COLUMNS: Final = ("score", "latency_ms", "error", "rows")
# What an outcome's value may be turned into; all but the first two look at the score of the request it names.
OUTCOME_VALUES: Final = ("value", "one", "correct", "log_loss", "squared_error", "absolute_error")
SCORED_VALUES: Final = frozenset(OUTCOME_VALUES[2:])


class DefinitionError(ValueError):
    """A definition that cannot be used: one line that names the file, the key and what is expected there."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One variant: the model version it shows and its share (0 to 1) of the users."""

    name: str
    version: str
    share: float


@dataclass(frozen=True, slots=True)
class Source:
    """Where the events of a metric come from, and what one event is worth.

    Exactly one of `outcome` (its name) and `prediction` (one of `PREDICTION_COLUMNS`) is set. `value` is one of
    `OUTCOME_VALUES`; those of `SCORED_VALUES` compare the outcome with the score of the prediction it names, a score
    above `threshold` being a call of 1. `aggregate` makes the unit's events one number.
    """

    outcome: str = ""
    prediction: str = ""
    value: str = "value"
    threshold: float = 0.5
    aggregate: Aggregate = "sum"

    @property
    def by_request(self) -> bool:
        """Whether events are attributed through the request they name, not through the user and the time."""
        return bool(self.outcome) and self.value in SCORED_VALUES


@dataclass(frozen=True, slots=True)
class Effect:
    """A size of effect: relative (0.1 is 10% of the control's value) or absolute, in the metric's own units."""

    size: float
    relative: bool


@dataclass(frozen=True, slots=True)
class Metric:
    """One number a unit, and how arms are compared on it.

    `source` is the numerator of a ratio. An event counts if it lies in [first exposure, first exposure + `window`].
    `cap_value` and `cap_percentile` (0 to 100) winsorise the unit's number from above; `percentile` (0 to 100) is the
    one that a quantile metric compares. With `covariate_window` the same number over the time before the exposure is
    kept as CUPED's covariate (Deng et al., WSDM 2013). Units without an event count as 0, unless `only_with_events`.
    """

    name: str
    kind: MetricKind
    source: Source
    denominator: Source | None
    window: timedelta
    direction: Direction
    mde: Effect | None = None
    cap_value: float | None = None
    cap_percentile: float | None = None
    percentile: float | None = None
    covariate_window: timedelta | None = None
    only_with_events: bool = False

    @property
    def binned(self) -> bool:
        """Whether its statistics are kept by bins of the unit's number: for quantiles and percentile caps."""
        return self.kind == "quantile" or self.cap_percentile is not None


@dataclass(frozen=True, slots=True)
class Guardrail:
    """A metric that must not get worse by `margin` or more: a non-inferiority test."""

    metric: str
    margin: Effect


@dataclass(frozen=True, slots=True)
class Procedure:
    """How the decision is made. `looks` and `spending` belong to group-sequential tests.

    `spending_parameter`: the power of the power family, gamma of Hwang, Shih and DeCani's.
    """

    kind: TestKind = "group-sequential"
    alpha: float = 0.05
    power: float = 0.8
    spending: Spending = "obrien-fleming"
    spending_parameter: float | None = None
    looks: int = 14


@dataclass(frozen=True, slots=True)
class Definition:
    """An experiment as its analyst defined it. See the module for what it is not.

    `slot` is the grain of the statistics: units are grouped by the slot of their first exposure, and a slot counts once
    its windows have closed and `maturity_delay` has passed for the last outcomes to arrive.
    """

    name: str
    hypothesis: str
    model: str
    variants: tuple[Arm, ...]
    control: str
    metrics: tuple[Metric, ...]
    guardrails: tuple[Guardrail, ...] = ()
    test: Procedure = Procedure()
    unit: Literal["user"] = "user"
    salt: str = ""
    layer: str = ""
    layer_ranges: tuple[Range, ...] = ((0, BUCKETS),)
    minimum_runtime: timedelta = timedelta(hours=24)
    maturity_delay: timedelta = timedelta(hours=1)
    slot: timedelta = timedelta(hours=1)

    def shares(self) -> dict[str, float]:
        """Share by arm: what `models.routing.Experiment.create` takes, with `versions`, `salt` and the layer."""
        return {arm.name: arm.share for arm in self.variants}

    def versions(self) -> dict[str, str]:
        """Model version by arm."""
        return {arm.name: arm.version for arm in self.variants}

    def metric(self, name: str) -> Metric:
        """The metric of that name. Raises `DefinitionError`."""
        for one in self.metrics:
            if one.name == name:
                return one
        raise DefinitionError(
            f"experiment {self.name!r} has no metric {name!r}; it has {', '.join(one.name for one in self.metrics)}"
        )

    def metric_key(self, metric: Metric) -> str:
        """Names what a metric's statistics depend on, so that those of a changed metric never mix with the old ones."""
        body = to_document(metric)
        for judged in ("direction", "mde", "cap_percentile", "percentile"):
            body.pop(judged, None)
        body |= {"binned": metric.binned, "slot": self.slot.total_seconds()}
        return xxh3_64_hexdigest(json.dumps(body, sort_keys=True).encode())

    def to_json(self) -> str:
        """The definition as JSON; `definition_reader.from_json` reads it."""
        return json.dumps(to_document(self), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """A definition and its run. Without `started_at` it has been created and not started. Times are aware, in UTC."""

    definition: Definition
    started_at: datetime | None = None
    stopped_at: datetime | None = None

    def start(self, at: datetime) -> Plan:
        """The run that begins now; on a stopped experiment, a new run. Raises `DefinitionError` while it runs."""
        if self.started_at is not None and self.stopped_at is None:
            raise DefinitionError(
                f"experiment {self.definition.name!r} has been running since {self.started_at.isoformat()}: "
                "stop it first, or ramp it to change its shares"
            )
        if self.stopped_at is not None and at < self.stopped_at:
            raise DefinitionError(
                f"experiment {self.definition.name!r} was stopped at {self.stopped_at.isoformat()}, "
                f"it cannot start again before that, at {at.isoformat()}"
            )
        return Plan(self.definition, at.astimezone(UTC))

    def stop(self, at: datetime) -> Plan:
        """The same run, ended: later exposures do not count. Raises `DefinitionError` where none is running."""
        if self.started_at is None or self.stopped_at is not None:
            raise DefinitionError(f"experiment {self.definition.name!r} is not running")
        if at < self.started_at:
            raise DefinitionError(
                f"experiment {self.definition.name!r} started at {self.started_at.isoformat()}, "
                f"it cannot stop before that, at {at.isoformat()}"
            )
        return replace(self, stopped_at=at.astimezone(UTC))

    def ramp(self, shares: Mapping[str, float]) -> Plan:
        """The same run with new shares; arms not named keep theirs. Raises `DefinitionError`.

        Who moves is decided by `models.routing.Experiment.ramp`, on the assignment.
        """
        arms = {arm.name: arm for arm in self.definition.variants}
        for name, share in shares.items():
            if name not in arms:
                raise DefinitionError(
                    f"experiment {self.definition.name!r} has no arm {name!r}; it has {', '.join(arms)}"
                )
            arms[name] = replace(arms[name], share=share)
        total = sum(arm.share for arm in arms.values())
        if total > 1 + 1e-9 or any(not 0 <= arm.share <= 1 for arm in arms.values()):
            raise DefinitionError(
                f"experiment {self.definition.name!r}: shares add up to {total:.2%}; each must be 0% to 100%, "
                "and all together at most 100%"
            )
        return replace(self, definition=replace(self.definition, variants=tuple(arms.values())))

    def to_json(self) -> str:
        """The body of its control record; `definition_reader.plan_from_json` reads it."""
        times = {"started_at": _micros(self.started_at), "stopped_at": _micros(self.stopped_at)}
        return json.dumps({**times, "definition": to_document(self.definition)}, ensure_ascii=False)


def to_document(one: Any) -> dict[str, Any]:
    """A dataclass of this module as JSON values: durations in seconds, keys that have their default value left in."""
    document: dict[str, Any] = asdict(one, dict_factory=lambda pairs: {key: _plain(value) for key, value in pairs})
    return document


def _plain(value: Any) -> Any:
    return value.total_seconds() if isinstance(value, timedelta) else value


def _micros(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
