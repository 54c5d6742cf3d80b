"""Silences: which alerts nobody is to be told of, until when, and by whose word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from analytics.alert_state import Alert

_MATCHER: Final = re.compile(r"\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*(.*?)\s*", re.DOTALL)
_LONGEST: Final = 500


class SilenceError(ValueError):
    """A silence that cannot be made, in one line."""


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on a label, or on rule, severity or source. A label that is not there is ''."""

    name: str
    operator: str
    value: str

    def fits(self, values: Mapping[str, str]) -> bool:
        """Whether it holds; regular expressions have to match as a whole."""
        there = values.get(self.name, "")
        found = bool(re.fullmatch(self.value, there)) if "~" in self.operator else there == self.value
        return found != self.operator.startswith("!")

    def __str__(self) -> str:
        return f"{self.name}{self.operator}{self.value}"


def matcher(text: str) -> Matcher:
    """Read `model=flight-delay`, `variant!=control`, `rule=~drift.*` or `rule!~a|b`. Raises `SilenceError`."""
    match = _MATCHER.fullmatch(text)
    if match is None or len(text) > _LONGEST:
        raise SilenceError(
            f"matcher {text[:80]!r}: expected NAME=VALUE, NAME!=VALUE, NAME=~REGEX or NAME!~REGEX, such as rule=slow"
        )
    name, operator, value = match.groups()
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = value[1:-1]
    if "~" in operator:
        try:
            re.compile(value)
        except re.error as error:
            raise SilenceError(f"matcher {text!r}: no regular expression: {error}") from None
    return Matcher(name, operator, value)


@dataclass(frozen=True, slots=True)
class Silence:
    """All of `matchers` have to fit. It holds from `starts_at` to before `until`; times are aware."""

    silence_id: str
    matchers: tuple[Matcher, ...]
    starts_at: datetime
    until: datetime
    comment: str
    author: str

    def __post_init__(self) -> None:
        if not self.matchers:
            raise SilenceError("a silence needs a matcher: one without would silence everything")
        if all(one.fits({}) for one in self.matchers):
            raise SilenceError("a silence needs a matcher that does not fit an alert without labels")

    def covers(self, alert: Alert, now: datetime) -> bool:
        """Whether it keeps an alert quiet now."""
        if not self.starts_at <= now < self.until:
            return False
        values = values_of(alert)
        return all(one.fits(values) for one in self.matchers)


def values_of(alert: Alert) -> dict[str, str]:
    """What matchers and groups see of an alert."""
    return {
        **alert.labels,
        "rule": alert.rule,
        "alertname": alert.rule,
        "severity": alert.severity,
        "source": alert.source,
    }


def silenced_by(alert: Alert, silences: Iterable[Silence], now: datetime) -> str:
    """The id of a silence that covers an alert now; '' where there is none."""
    return next((one.silence_id for one in silences if one.covers(alert, now)), "")
