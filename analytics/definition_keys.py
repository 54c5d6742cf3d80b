"""The keys an experiment's TOML may have: the reader takes their names from here, the page of reference all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from analytics.definitions import (
    BUCKETS,
    OUTCOME_VALUES,
    PREDICTION_COLUMNS,
    SCORED_VALUES,
    Aggregate,
    Direction,
    MetricKind,
    Procedure,
    Spending,
    TestKind,
)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table. `default` is what leaving it out means, as TOML has it; `usual` says it where it depends."""

    name: str
    expected: str
    meaning: str
    needed: bool = False
    default: Any = None
    usual: str = ""


def _either(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{one}`" for one in names[:-1]) + f" or `{names[-1]}`"


_DURATION: Final = "duration: `48h`, `10m`, `1.5d`, seconds"
_EFFECT: Final = 'relative size `"10%"`, or absolute `0.01`'
_USUAL: Final = Procedure()
_JUDGING: Final = tuple(one for one in OUTCOME_VALUES if one in SCORED_VALUES)

# By the table they stand in; "" is the file itself, "source" what a metric's source, numerator or denominator holds.
TABLES: Final[Mapping[str, tuple[Key, ...]]] = {
    "": (
        Key("name", "letters, digits, `.`, `_`, `-`", "under another name it is another experiment", True),
        Key("hypothesis", "text", "what is expected to happen, and why", True),
        Key("model", "text", "a model of the store", True),
        Key("control", "text", "the variant that the others are compared with", True),
        Key("variants", "two or more tables", "the arms", True),
        Key("metrics", "one or more tables", "what is compared; the first that is no guardrail decides", True),
        Key("guardrails", "tables", "metrics that must not get worse", usual="none"),
        Key("test", "table", "how the decision is made", usual="group-sequential"),
        Key("unit", "`user`", "what is randomised and counted", default="user"),
        Key("salt", "text", "deals users to buckets; another one deals anew", usual="the name"),
        Key("layer", "text", "experiments of one layer exclude each other", default=""),
        Key(
            "layer_ranges", "list of `[lo, hi]`", f"its part of the layer's {BUCKETS:,} buckets", default=[[0, BUCKETS]]
        ),
        Key("minimum_runtime", _DURATION, "no decision before, but to roll back", default="24h"),
        Key("maturity_delay", _DURATION, "how long outcomes take to arrive after a window has closed", default="1h"),
        Key("slot", "duration of whole seconds", "the grain of statistics, see architecture", default="1h"),
    ),
    "variants": (
        Key("name", "letters, digits, `.`, `_`, `-`", "the arm", True),
        Key("version", "text", "the model version its users meet", True),
        Key("share", '`0.5` or `"50%"`', "its part of all users; what arms leave over is not part of it", True),
    ),
    "metrics": (
        Key("name", "letters, digits, `.`, `_`, `-`", "the metric", True),
        Key("kind", _either(get_args(MetricKind)), "what is compared of the users' numbers", True),
        Key("outcome", "text", "a source in short: the outcomes of that name", usual="one of these four"),
        Key("prediction", _either(PREDICTION_COLUMNS), "a source in short: a column of the prediction log"),
        Key("source", "table, see below", "where its events come from"),
        Key("numerator", "table, see below", "the same, of a ratio"),
        Key("denominator", "table, see below", "a ratio's, and only there"),
        Key("window", _DURATION, "events count from the user's first exposure until then", default="24h"),
        Key("direction", _either(get_args(Direction)), "which way is good", default="increase"),
        Key("mde", _EFFECT, "the smallest effect worth finding: sets the planned size"),
        Key("cap_value", "number above 0", "winsorises a user's number"),
        Key("cap_percentile", "0 to 100", "the same, at a percentile of all users"),
        Key("percentile", "0 to 100", "the one that a quantile compares"),
        Key("covariate_window", _DURATION, "CUPED: the same number over so long before the exposure"),
        Key(
            "only_with_events", "true or false", "leave out users without an event, instead of counting them as 0",
            usual="true for quantiles and `mean` aggregates",
        ),
    ),
    "source": (
        Key("outcome", "text", "the outcomes of that name", usual="one of these two"),
        Key("prediction", _either(PREDICTION_COLUMNS), "a column of the prediction log"),
        Key(
            "value", _either(OUTCOME_VALUES),
            f"what an outcome is worth; {_either(_JUDGING)} hold it against the score of the request it names",
            default="value",
        ),
        Key("threshold", "number", "a score above it is a call of 1", default=0.5),
        Key(
            "aggregate", _either(get_args(Aggregate)), "makes a user's events one number",
            usual="`any` for proportions, `mean` for quantiles, else `sum`",
        ),
    ),
    "guardrails": (
        Key("metric", "text", "one of the metrics", True),
        Key("margin", _EFFECT, "worse by so much is a breach", True),
    ),
    "test": (
        Key("kind", _either(get_args(TestKind)), "how often it may be looked at", default=_USUAL.kind),
        Key("alpha", "0 to 1", "the chance to see an effect where there is none", default=_USUAL.alpha),
        Key("power", "0 to 1", "the chance to find the `mde` where it is there", default=_USUAL.power),
        Key("spending", _either(get_args(Spending)), "how alpha is spread over looks", default=_USUAL.spending),
        Key("spending_parameter", "number", "of the families `power` and `hwang-shih-decani`"),
        Key("looks", "whole number", "how many looks are planned (more or fewer are no error)", default=_USUAL.looks),
    ),
}  # fmt: skip


def needed(table: str) -> tuple[str, ...]:
    """The keys that must be there."""
    return tuple(one.name for one in TABLES[table] if one.needed)


def other(table: str) -> tuple[str, ...]:
    """The keys that may be there."""
    return tuple(one.name for one in TABLES[table] if not one.needed)
