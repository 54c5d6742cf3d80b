"""Shows each model's versions: which serves and where, how good it was, what it takes, what it was made from. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

from analytics import report_numbers as numbers
from analytics.dashboard.charts import Bars, Chart, charts, colour
from analytics.dashboard.layout import address, chip, empty, section, table, title
from analytics.dashboard.models import Live, Models, Version
from analytics.report_markup import Markup, element, join

_TONES: Final[Mapping[str, str]] = {"serves": "good", "broken": "bad", "in an experiment": "watch"}
_MOST_BARS: Final = 30


def content(
    found: Models, store: str, now: datetime, *, model: str = "", version: str = "", feature: str = ""
) -> Markup:
    """The page between its frame. `model`, `version` and `feature` say what is opened below the list."""
    lead = "Every version in the store, and where it is live"
    if not found.versions:
        return join((
            title("Models", lead),
            empty(
                f"There is no model in {store}. Add an ONNX file; workers see it within seconds.",
                "penstock models add NAME VERSION model.onnx",
            ),
        ))  # fmt: skip
    names = list(dict.fromkeys(one.model for one in found.versions))
    parts: list[Markup] = [title("Models", lead)]
    for name in names:
        some = [one for one in found.versions if one.model == name]
        rows = [_row(found, one, now) for one in reversed(some)]
        rollout = found.rollouts.get(name)
        about = f"Rollout: {_rollout(rollout)}" if rollout else ""
        parts.append(section(name, table(_COLUMNS, rows, f"Versions of {name}"), about=about))
    opened = _opened(found, model, version)
    parts.append(element("div", _version(opened, feature), id="detail", aria_live="polite"))
    return join(parts)


_COLUMNS: Final[Sequence[tuple[str, str]]] = (
    ("version", ""), ("stage", ""), ("live", ""), ("measured", ""), ("takes", ""), ("gives", ""), ("size", "number"),
)  # fmt: skip


def _row(found: Models, one: Version, now: datetime) -> Sequence[str]:
    live = found.live.get((one.model, one.version))
    stage = found.stage(one)
    more = element("small", one.problem) if one.problem else ""
    link = address("/models", model=one.model, version=one.version) + "#detail"
    takes = element("div", f"{one.features} features", element("small", "; ".join(one.inputs)))
    return (
        element("a", one.version, href=link, class_="strong", data_swap="detail"),
        element("div", chip(stage, _TONES.get(stage, "open")), more),
        _live(live, now),
        element("div", *(element("small", line) for line in _measured(one.metrics))) if one.metrics else numbers.NONE,
        takes if one.inputs else numbers.NONE,
        element("small", "; ".join(one.outputs)),
        f"{one.size / 1024:,.0f} KiB" if one.size else numbers.NONE,
    )


def _live(live: Live | None, now: datetime) -> Markup | str:
    if live is None:
        return numbers.NONE
    where = f"{len(live.workers)} worker(s), {', '.join(live.devices)}"
    ago = numbers.span_of_time(now - live.last)
    return element(
        "div",
        f"{numbers.count(live.rows)} rows",
        element("small", f"{where}; last {ago} ago"),
        *(element("small", one) for one in live.variants),
    )


def _measured(metrics: Mapping[str, Any]) -> Iterable[str]:
    """A line for each set a version was measured on: holdout: AUC 0.721, log loss 0.529."""
    for name, found in metrics.items():
        if not isinstance(found, Mapping):
            yield f"{_words(name)}: {_value(found)}"
            continue
        chosen = [key for key in ("auc", "log_loss", "calibration_error", "accuracy") if key in found]
        chosen = chosen or [key for key, value in found.items() if isinstance(value, float)][:3]
        yield f"{name}: " + ", ".join(f"{_words(key)} {_value(found[key])}" for key in chosen)


def _opened(found: Models, model: str, version: str) -> Version | None:
    some = [one for one in found.versions if one.model == model] or [one for one in found.versions if one.newest]
    exact = [one for one in some if one.version == version]
    serving = [one for one in some if found.stage(one) == "serves"]
    return (exact or serving or some or [None])[0]  # type: ignore[list-item]


def _version(one: Version | None, feature: str) -> Markup:
    if one is None:
        return join(())
    parts: list[Markup] = []
    measured = join(())
    if one.metrics:
        sets = {name: found for name, found in one.metrics.items() if isinstance(found, Mapping)}
        keys = list(dict.fromkeys(key for found in sets.values() for key in found))
        columns: list[tuple[str, str]] = [("", ""), *((name, "number") for name in sets)]
        rows = [(_words(key), *(_value(found.get(key)) for found in sets.values())) for key in keys]
        measured = element("div", element("h3", "Measured"), table(columns, rows, "Metrics", "small"))
    parts.append(element("div", element("div", _profile(one, feature)), measured, class_="beside"))
    if one.lineage:
        shown = json.dumps(one.lineage, indent=1, ensure_ascii=False, default=str)
        kept = element("pre", element("code", shown), tabindex="0")
        parts.append(element("details", element("summary", "What it was made from"), kept))
    return section(f"{one.model} {one.version}", *parts, key="version")


def _profile(one: Version, feature: str) -> Markup:
    features = one.profile.get("features")
    if not isinstance(features, Mapping) or not features:
        words = "This version carries no profile, so drift has nothing to compare with until one is made."
        return join((element("h3", "Profile"), empty(words, f"penstock drift profile {one.model} {one.version}")))
    chosen = feature if feature in features else next(iter(features))
    links = [
        element(
            "a", str(name), aria_current="true" if name == chosen else None, data_swap="detail",
            href=address("/models", model=one.model, version=one.version, feature=str(name)) + "#detail",
        )
        for name in features
    ]  # fmt: skip
    rows = one.profile.get("rows")
    where = f"{one.profile.get('from', '?')} to {one.profile.get('to', '?')}"
    about = f"{rows:,} rows, {where}" if isinstance(rows, int) else where
    drawn = _feature_chart(str(chosen), features[chosen])
    return join((
        element("h3", "Profile"),
        element("p", f"What its features were when it was trained: {about}.", class_="about"),
        element("div", *links, class_="choices wrap", role="group", aria_label="feature"),
        charts([drawn], wide=True) if drawn else element("p", _plain(features[chosen]), class_="hint"),
    ))  # fmt: skip


def _feature_chart(name: str, found: Any) -> Chart | None:
    """A feature's shares by category or bin, whichever its profile has."""
    if not isinstance(found, Mapping):
        return None
    nulls = found.get("null_share")
    about = f"{100 * nulls:.2g}% missing" if isinstance(nulls, (int, float)) else ""
    shares = found.get("shares")
    if isinstance(shares, Mapping) and shares:
        top = sorted(shares.items(), key=lambda one: -float(one[1]))[:_MOST_BARS]
        more = f"; {len(shares)} categories" + (f", the first {_MOST_BARS}" if len(shares) > _MOST_BARS else "")
        values = [float(value) for _, value in top]
        return Chart("profile", name, about + more, [Bars(name, [str(key) for key, _ in top], values, colour(1))],
                     percent=True)  # fmt: skip
    edges = found.get("edges")
    if isinstance(edges, Sequence) and isinstance(shares, Sequence) and len(edges) >= 2:
        labels = _bins([float(edge) for edge in edges], len(shares))
        values = [float(value) for value in shares]
        return Chart("profile", name, about, [Bars(name, labels, values, colour(1))], percent=True)
    quantiles = found.get("quantiles")
    if isinstance(quantiles, Mapping) and quantiles:
        values = [float(value) for value in quantiles.values()]
        return Chart(
            "profile", name, f"Its quantiles; {about}", [Bars(name, list(map(str, quantiles)), values, colour(1))]
        )
    return None


def _bins(edges: Sequence[float], count: int) -> list[str]:
    inner = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]
    if count == len(inner) + 2:
        return [f"below {edges[0]:.4g}", *inner, f"above {edges[-1]:.4g}"]
    return inner if count == len(inner) else [str(number + 1) for number in range(count)]


def _rollout(body: str) -> str:
    """The control topic's words for a rollout, whatever they are, in a line."""
    try:
        document = json.loads(body)
    except ValueError:
        return body
    if not isinstance(document, Mapping):
        return body
    return ", ".join(f"{key} {value}" for key, value in document.items() if isinstance(value, (str, int, float)))


def _plain(found: Any) -> str:
    if not isinstance(found, Mapping):
        return str(found)
    return ", ".join(f"{_words(str(key))} {_value(value)}" for key, value in found.items())


def _words(key: str) -> str:
    return {"auc": "AUC"}.get(key, key.replace("_", " "))


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return numbers.NONE if value is None else str(value)
