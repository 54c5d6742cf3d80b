"""Shows alerts: those that are on, what is kept quiet and how to do so, and what was. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from analytics import report_numbers as numbers
from analytics.dashboard.alerts import HISTORY, Alert, Alerts, Silence
from analytics.dashboard.layout import address, chip, empty, note, section, table, title
from analytics.report_markup import Markup, element, join

DURATIONS: Final[Mapping[str, str]] = {"1h": "1 hour", "4h": "4 hours", "1d": "1 day", "7d": "7 days"}
_TONES: Final[Mapping[str, str]] = {"firing": "bad", "pending": "watch", "resolved": "good"}
_SIGNS: Final[Mapping[str, str]] = {"firing": "▲", "pending": "△", "resolved": "✓"}


def content(found: Alerts, now: datetime, *, may_silence: bool, fit: str = "", said: str = "") -> Markup:
    """The page between its frame. `fit`: what the form is filled with; `said`: what came of the last form."""
    firing = sum(one.state == "firing" for one in found.now)
    pending = len(found.now) - firing
    lead = f"{firing} firing, {pending} pending, {len(found.silences)} silenced"
    return join((
        title("Alerts", lead),
        note(said) if said else "",
        element("div", _now(found, now), id="now", data_live=True),
        _silences(found.silences, now, may_silence=may_silence, fit=fit),
        element("div", _history(found.history), id="history", data_live=True),
    ))  # fmt: skip


def _now(found: Alerts, now: datetime) -> Markup:
    if not found.now:
        if not found.history:
            return section(
                "Now",
                empty(
                    "Nothing has been raised yet. Rules are kept in a file of TOML; Penstock comes with some for "
                    "latency, errors, lag and drift.",
                    "penstock alerts list",
                ),
                key="on",
            )
        last = found.history[0]
        words = f"Nothing is on. The last change was {numbers.span_of_time(now - last.changed_at)} ago: {last.summary}"
        return section("Now", element("p", words, class_="calm"), key="on")
    return section("Now", element("ul", *(_card(one, now) for one in found.now), class_="alerts"), key="on")


def _card(one: Alert, now: datetime) -> Markup:
    tone = _TONES.get(one.state, "open")
    facts = [f"for {numbers.span_of_time(now - one.started_at)}", f"since {numbers.moment(one.started_at)}"]
    facts.append(f"value {_number(one.value)} against {_number(one.threshold)}, n {one.n:,}")
    facts.append(f"from {one.source}")
    told = _told(one.delivered)
    return element(
        "li",
        element("span", _SIGNS.get(one.state, "○"), class_="icon", aria_hidden="true"),
        element(
            "div",
            element("strong", one.summary),
            element("p", chip(one.state, tone), chip(one.severity), *_labels(one.labels), class_="labels"),
            element("p", " · ".join(facts), class_="hint"),
            element("p", f"told: {told}" if told else "nobody is to be told", class_="hint"),
        ),
        element("a", "Silence…", href=address("/alerts", fit=_fit(one)) + "#silence", class_="button"),
        class_=f"alert {tone}",
    )


def _silences(some: Sequence[Silence], now: datetime, *, may_silence: bool, fit: str) -> Markup:
    columns = (("matches", ""), ("for", "number"), ("why", ""), ("by", ""), ("id", ""))
    rows = [
        (join(_labels_of(one.matchers)), f"{numbers.span_of_time(one.until - now)} more", one.comment, one.author,
         element("code", one.silence_id))
        for one in some
    ]  # fmt: skip
    shown = table(columns, rows, "Silences") if rows else element("p", "Nothing is silenced.", class_="hint")
    if not may_silence:
        form = element(
            "p", "Silences are set on the machine itself: ", element("code", "penstock alerts silence"), class_="hint"
        )
    else:
        form = _form(fit)
    return section("Silences", shown, form, key="silence")


def _form(fit: str) -> Markup:
    options = [element("option", words, value=key) for key, words in DURATIONS.items()]
    return element(
        "form",
        element("label", element("span", "alerts that match"), element(
            "input", name="matchers", value=fit, required=True, placeholder='rule=p99 model=flight-delay', size=44,
            autocomplete="off", spellcheck="false",
        )),
        element("label", element("span", "for"), element("select", *options, name="duration")),
        element("label", element("span", "because"), element("input", name="comment", required=True, size=30)),
        element("button", "Silence", type="submit"),
        method="post", action="/alerts/silence", class_="form",
    )  # fmt: skip


def _history(some: Sequence[Alert]) -> Markup:
    if not some:
        return join(())
    columns = (("when", "short"), ("state", ""), ("severity", ""), ("alert", ""), ("value", "number"), ("told", ""))
    rows = [
        (
            f"{one.changed_at:%Y-%m-%d %H:%M:%S}",
            chip(f"{_SIGNS.get(one.state, '○')} {one.state}", _TONES.get(one.state, "open")),
            one.severity,
            element("div", one.summary, element("small", join(_labels(one.labels)))),
            _number(one.value),
            element("small", _told(one.delivered)),
        )
        for one in some
    ]
    about = f"The last {HISTORY} changes." if len(some) == HISTORY else "Every change, the newest first. Times are UTC."
    return section("History", table(columns, rows, "History of alerts", "history"), key="past", about=about)


def _labels(labels: Mapping[str, str]) -> Iterable[Markup]:
    return _labels_of(f"{key}={value}" for key, value in labels.items() if value)


def _labels_of(some: Iterable[str]) -> Iterable[Markup]:
    return (element("code", one, class_="label") for one in some)


def _told(delivered: Mapping[str, str]) -> str:
    """Who was told when: slack 06:18:51, log not yet; or why somebody was not."""
    return "; ".join(f"{who} {_moment(when)}" for who, when in delivered.items())


def _moment(when: str) -> str:
    try:
        return f"{datetime.fromisoformat(when):%H:%M:%S}"
    except ValueError:
        return when or "not yet"


def _fit(one: Alert) -> str:
    """Matchers for this alert's rule and model."""
    named = {"rule": one.rule, **{key: one.labels[key] for key in ("model",) if one.labels.get(key)}}
    return " ".join(f"{key}={_quoted(value)}" for key, value in named.items())


def _quoted(value: str) -> str:
    if value and all(letter not in value for letter in " \"'\\"):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _number(value: float) -> str:
    return numbers.number(value, numbers.places(None, value))
