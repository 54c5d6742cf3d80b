"""Reads alert rules from TOML, and says which file, rule and key is wrong.

[[rules]]
name = "errors"
metric = "error_share"        # of analytics.alert_catalogue; or `sql`, a question with a column `value`
when = "> 1%"
for = "2m"
severity = "critical"
summary = "{value:.1%} of {n} predictions of {model} {version} fail"
"""

from __future__ import annotations

import difflib
import math
import operator
import re
import string
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args

from analytics import definition_values as values
from analytics.alert_catalogue import CATALOGUE, Source
from analytics.readonly import QueryRefusedError, check_read_only

_T = TypeVar("_T")
Severity = Literal["info", "warning", "critical"]
SEVERITIES: Final[tuple[Severity, ...]] = get_args(Severity)
# What every alert has beside its labels; a label of the same name would hide it.
RESERVED: Final = frozenset({"alertname", "rule", "severity", "source"})
# What a summary can name whatever the metric is.
PLACES: Final = frozenset({"value", "threshold", "rule", "severity"})
LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
SHIPPED: Final = "alerts.toml"
_OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
_WHEN: Final = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*(-?\d+(?:\.\d+)?(?:e-?\d+)?)\s*(%?)\s*")
_LONGEST_SUMMARY: Final = 1000


class AlertRuleError(ValueError):
    """A rule that cannot be used, in one line: file, rule and key, what was expected, what there is."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What a value is compared with."""

    operator: str
    threshold: float

    def holds(self, value: float) -> bool:
        """Whether a value is one to be alarmed at. Not-a-number never is."""
        return not math.isnan(value) and _OPERATORS[self.operator](value, self.threshold)

    def __str__(self) -> str:
        return f"{self.operator} {self.threshold:g}"


@dataclass(frozen=True, slots=True)
class Rule:
    """When an alert is raised. Exactly one of `metric` and `sql` is set.

    `hold`: how long the condition has to hold before it fires. `keep_firing`: how long it goes on when the condition
    does not hold any more, so that a value about the threshold raises one alert. `min_n`: a sample of fewer counts as
    none. `where`: values of labels that are looked at, all of them for a label that is not named.
    """

    name: str
    condition: Condition
    summary: str
    metric: str = ""
    sql: str = ""
    window: timedelta = timedelta(minutes=5)
    hold: timedelta = timedelta()
    keep_firing: timedelta = timedelta()
    severity: Severity = "warning"
    min_n: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def source(self) -> Source:
        """Whose figures it judges."""
        return CATALOGUE[self.metric].source if self.metric else "rule"


def shipped_rules() -> tuple[Rule, ...]:
    """The rules that come with Penstock."""
    return parse_rules(files("analytics").joinpath(SHIPPED).read_text("utf-8"), SHIPPED)


def read_rules(path: str | Path) -> tuple[Rule, ...]:
    """The rules of a file; '' is the file that comes with Penstock. Raises `AlertRuleError`."""
    if path == "":
        return shipped_rules()
    path = Path(path)
    try:
        return parse_rules(path.read_text("utf-8"), path.name)
    except OSError as error:
        raise AlertRuleError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise AlertRuleError(f"{path.name} is not UTF-8: {error.reason} at byte {error.start}") from None


def parse_rules(text: str, what: str) -> tuple[Rule, ...]:
    """The rules of a TOML text; `what` begins every error's line. Raises `AlertRuleError`."""
    try:
        body = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise AlertRuleError(f"{what} is not TOML: {error}") from None
    if unknown := [key for key in body if key != "rules"]:
        raise AlertRuleError(f"{what}: {unknown[0]}: no such key; there is rules, a list of tables, [[rules]]")
    entries = body.get("rules", [])
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise AlertRuleError(f"{what}: rules: expected a list of tables, [[rules]], got {values.shown(entries)}")
    found = tuple(_rule(_Entry(what, at, one)) for at, one in enumerate(entries))
    names = [one.name for one in found]
    for at, name in enumerate(names):
        if names.index(name) != at:
            raise AlertRuleError(f"{what}: rules[{at}] ({name}): name: there is another rule of this name")
    return found


def places(summary: str) -> Iterator[str]:
    """The names that a summary's places ask for. Raises `ValueError` for what is no plain name."""
    for _, name, form, conversion in string.Formatter().parse(summary):
        if name is None:
            continue
        # No attribute and no index: a summary is filled with values, and reaches nothing behind them.
        if not LABEL.fullmatch(name) or conversion or (form and "{" in form):
            raise ValueError(f"{{{name}}} is no plain name")
        yield name


_KEYS: Final = (
    *("name", "metric", "sql", "when", "window", "for", "keep_firing_for", "severity", "min_n", "labels", "where"),
    "summary",
)


class _Entry:
    """One table of the file, whose errors name file, rule and key."""

    def __init__(self, what: str, at: int, body: Mapping[str, Any]) -> None:
        name = body.get("name")
        self._where = f"{what}: rules[{at}]" + (f" ({name})" if isinstance(name, str) and name else "")
        self._body = body
        for key in body:
            if key not in _KEYS:
                close = difflib.get_close_matches(key, _KEYS, 1)
                hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(_KEYS)}"
                raise self.wrong(key, f"no such key; {hint}")

    def wrong(self, key: str, text: str) -> AlertRuleError:
        return AlertRuleError(f"{self._where}: {key}: {text}" if key else f"{self._where}: {text}")

    def get(self, key: str, read: Callable[[Any], _T], default: _T | None = None) -> _T:
        if key not in self._body:
            if default is None:
                raise self.wrong(key, "is missing")
            return default
        try:
            return read(self._body[key])
        except values.Expected as expected:
            raise self.wrong(
                key + expected.inside, f"expected {expected}, got {values.shown(expected.got(self._body[key]))}"
            ) from None


def _rule(entry: _Entry) -> Rule:
    name = entry.get("name", values.name)
    metric, sql = entry.get("metric", values.text, ""), entry.get("sql", values.text, "")
    if not metric and not sql:
        raise entry.wrong(
            "", f"it names no metric: give it `metric`, one of {', '.join(CATALOGUE)}, or `sql`, a question of its own"
        )
    if metric and sql:
        raise entry.wrong("sql", "either it or metric, not both")
    if metric and metric not in CATALOGUE:
        close = difflib.get_close_matches(metric, CATALOGUE, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(CATALOGUE)}"
        raise entry.wrong("metric", f"no such metric {metric!r}; {hint}")
    if sql:
        try:
            sql = check_read_only(sql)
        except QueryRefusedError as error:
            raise entry.wrong("sql", str(error)) from None
    known = CATALOGUE[metric] if metric else None
    if sql and entry.get("window", values.duration, timedelta()):
        raise entry.wrong("window", "a question of its own says in its SQL what it looks at; leave it out")
    rule = Rule(
        name=name,
        condition=entry.get("when", _condition),
        summary=entry.get("summary", values.text, f"{name}: {{value}}"),
        metric=metric,
        sql=sql,
        window=entry.get("window", values.whole_seconds, known.window if known else timedelta(minutes=5)),
        hold=entry.get("for", values.duration, timedelta()),
        keep_firing=entry.get("keep_firing_for", values.duration, timedelta()),
        severity=entry.get("severity", values.one_of(SEVERITIES), "warning"),
        min_n=entry.get("min_n", values.count, 0),
        labels=entry.get("labels", _labels, {}),
        where=entry.get("where", _where, {}),
    )
    if known is not None:
        if rule.min_n and "n" not in known.figures:
            raise entry.wrong("min_n", f"{metric} has no n to be compared with it")
        for label in rule.where:
            if label not in known.labels:
                raise entry.wrong(
                    f"where.{label}", f"{metric} has no such label; it has {', '.join(known.labels) or 'none'}"
                )
    _check_summary(entry, rule)
    return rule


def _check_summary(entry: _Entry, rule: Rule) -> None:
    try:
        names = set(places(rule.summary))
    except ValueError as error:
        raise entry.wrong("summary", f"{error}; {{name}} and {{name:.2f}} are filled in") from None
    if len(rule.summary) > _LONGEST_SUMMARY:
        raise entry.wrong("summary", f"expected at most {_LONGEST_SUMMARY} characters, got {len(rule.summary)}")
    if rule.metric:
        known = CATALOGUE[rule.metric]
        there = PLACES | set(known.labels) | set(known.figures) | set(rule.labels)
        for name in sorted(names - there):
            raise entry.wrong("summary", f"nothing fills {{{name}}}; there are {', '.join(sorted(there))}")


def _condition(value: Any) -> Condition:
    match = _WHEN.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise values.Expected("a comparison such as '> 0.01', '>= 5%' or '== 1'")
    return Condition(match[1], float(match[2]) / (100 if match[3] else 1))


def _labels(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise values.Expected("a table of texts")
    for name, text in value.items():
        if not LABEL.fullmatch(name) or name in RESERVED:
            raise values.Expected(f"names of letters, digits and '_', none of {', '.join(sorted(RESERVED))}")
        if not isinstance(text, str) or not text:
            raise values.Expected("a text that is not empty", f".{name}", text)
    return dict(value)


def _where(value: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, Mapping):
        raise values.Expected("a table of texts or lists of texts")
    found: dict[str, tuple[str, ...]] = {}
    for name, wanted in value.items():
        several = wanted if isinstance(wanted, list) else [wanted]
        if not several or not all(isinstance(one, str) for one in several):
            raise values.Expected("a text or a list of texts", f".{name}", wanted)
        found[name] = tuple(several)
    return found
