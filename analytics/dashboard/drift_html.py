"""Shows what drifted: a heat map of features by window, one of its cells from near, performance over time. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from analytics import report_numbers as numbers
from analytics.dashboard.charts import Bars, Chart, Level, Line, charts, colour
from analytics.dashboard.drift import METRICS, SCORE, WINDOWS, Bin, Detail, Drift, Figure, called
from analytics.dashboard.layout import address, chip, empty, section, select, table, title
from analytics.report_markup import Markup, element, join

_TONES: Final[Mapping[str, str]] = {"drift": "bad", "watch": "watch", "ok": "good", "too few": "open"}
_SIGNS: Final[Mapping[str, str]] = {"drift": "▲", "watch": "△", "ok": "", "too few": "·"}
_NAMES: Final[Mapping[str, str]] = {
    "psi": "population stability index",
    "ks": "Kolmogorov-Smirnov distance",
    "js": "Jensen-Shannon distance",
    "wasserstein": "Wasserstein distance",
    "chi2": "chi-square",
    "null_share": "share of missing values",
    "unseen_share": "share of unseen categories",
}
# Beyond so many windows a cell is too narrow for its number.
_READABLE: Final = 40
_BANDS: Final = (0.02, 0.05, 0.1, 0.2, 0.4)
# These have a unit of their own: their colours are shares of the largest that is shown.
_UNBOUNDED: Final = frozenset({"chi2", "wasserstein"})
# Of performance: what is drawn with its estimate beside it, then each on its own.
_ESTIMATED: Final = tuple((name, f"cbpe_{name}") for name in ("auc", "accuracy", "log_loss", "f1"))
_ALONE: Final = ("calibration",)


def content(found: Drift | None, shown: Detail | None, windows: int) -> Markup:
    """The page between its frame."""
    lead = "Whether what comes in, and what goes out, is still what the model was made for"
    if found is None:
        return join((
            title("Drift", lead),
            empty(
                "Nothing has been compared yet. A drift run holds each day's predictions against the model's reference "
                "profile; the process that holds the warehouse makes one by itself when a day is over.",
                "penstock drift run",
                "penstock drift watch",
            ),
        ))  # fmt: skip
    return join((
        title("Drift", lead, _form(found, windows)),
        _heat(found, shown, windows),
        element("div", _detail(found, shown), id="detail", aria_live="polite"),
        _performance(found),
    ))  # fmt: skip


def _form(found: Drift, windows: int) -> Markup:
    scope = found.scope
    models = list(dict.fromkeys(one.model for one in found.scopes))
    versions = list(dict.fromkeys(one.version for one in found.scopes if one.model == scope.model))
    mine = [one for one in found.scopes if (one.model, one.version) == (scope.model, scope.version)]
    lengths = sorted({one.seconds for one in mine})
    slices = {f"{one.slice_by}={one.slice}" if one.slice_by else "": None for one in mine}
    chosen = f"{scope.slice_by}={scope.slice}" if scope.slice_by else ""
    return element(
        "form",
        select("model", "model", models, scope.model),
        select("version", "version", versions, scope.version),
        select("slice", "slice", list(slices), chosen, names=lambda value: value or "all of it"),
        select("metric", "figure", METRICS, found.metric),
        select("length", "each", [str(one) for one in lengths], str(scope.seconds), names=_length),
        select("windows", "windows", [str(one) for one in WINDOWS], str(windows)),
        element("noscript", element("button", "Show", type="submit")),
        method="get", action="/drift", class_="form",
    )  # fmt: skip


def link(found: Drift, windows: int, feature: str, at: datetime) -> str:
    """The address of a cell."""
    scope = found.scope
    return address(
        "/drift", model=scope.model, version=scope.version,
        slice=f"{scope.slice_by}={scope.slice}" if scope.slice_by else "",
        metric=found.metric, length=str(scope.seconds), windows=str(windows), feature=feature, at=at.isoformat(),
    )  # fmt: skip


def _heat(found: Drift, shown: Detail | None, windows: int) -> Markup:
    heading = f"{_NAMES.get(found.metric, found.metric)} by feature and window".capitalize()
    if not found.cells:
        text = f"No window of this scope has the figure {found.metric}: choose another one above."
        return section(heading, empty(text), key="map")
    narrow = len(found.windows) > _READABLE
    bands = _bands(found)
    every = max(1, math.ceil(len(found.windows) / (12 if narrow else 40)))
    heads = [
        element("th", element("span", _heads(found.days, number, every)), scope="col", title=f"{at:%Y-%m-%d %H:%M}")
        for number, at in enumerate(found.days)
    ]
    rows = []
    for row, feature in enumerate(found.features):
        cells = [
            element(
                "td", _cell(found, shown, windows, bands, feature, at, narrow=narrow, first=(row, column) == (0, 0))
            )
            for column, at in enumerate(found.windows)
        ]
        name = "score" if feature == SCORE else feature
        rows.append(element("tr", element("th", name, scope="row", title=name), *cells))
    grid = element(
        "table",
        element("caption", heading),
        element("thead", element("tr", element("td", ""), *heads)),
        element("tbody", *rows),
        class_="heat narrow" if narrow else "heat", id="heat",
    )  # fmt: skip
    drifted = sum(one.verdict == "drift" for one in found.cells.values())
    about = f"{drifted} of {numbers.count(len(found.cells))} cells drifted. The arrow keys move, Enter opens a cell."
    return section(heading, element("div", grid, class_="scroll heats"), _legend(bands), key="map", about=about)


def _cell(
    found: Drift,
    shown: Detail | None,
    windows: int,
    bands: Sequence[float],
    feature: str,
    at: datetime,
    *,
    narrow: bool,
    first: bool,
) -> Markup | str:
    figure = found.cells.get((feature, at))
    if figure is None:
        return element("span", "", class_="cell none")
    open_now = shown is not None and (shown.feature, shown.at) == (feature, at)
    sign = _SIGNS.get(figure.verdict, "")
    value = "" if narrow else _short(figure.value)
    day = called(figure.start, figure.end)
    words = f"{feature}, {day:%Y-%m-%d}: {found.metric} {_number(figure.value)}, n {figure.n:,}, {figure.verdict}"
    return element(
        "a",
        element("i", sign, aria_hidden="true") if sign else "",
        value,
        href=link(found, windows, feature, at), class_=f"cell {_band(figure, bands)}", title=words, aria_label=words,
        aria_current="true" if open_now else None, tabindex="0" if open_now or (shown is None and first) else "-1",
    )  # fmt: skip


def _bands(found: Drift) -> tuple[float, ...]:
    """Where the colours of a heat map begin."""
    if found.metric not in _UNBOUNDED:
        return _BANDS
    largest = max((one.value for one in found.cells.values() if math.isfinite(one.value)), default=1.0)
    return tuple(largest * part / 6 for part in range(1, 6))


def _legend(bands: Sequence[float]) -> Markup:
    words = [f"below {bands[0]:.3g}", *(f"from {one:.3g}" for one in bands)]
    shown = [element("li", element("span", "", class_=f"swatch h{number}"), text) for number, text in enumerate(words)]
    signs = [element("li", f"{_SIGNS[name]} {name}") for name in ("drift", "watch", "too few")]
    return element("ul", *shown, *signs, class_="legend")


def _detail(found: Drift, shown: Detail | None) -> Markup:
    if shown is None or not shown.figures:
        return join(())
    name = "score" if shown.feature == SCORE else shown.feature
    ones = [one for one in shown.figures if one.metric == found.metric]
    first = ones[0] if ones else shown.figures[0]
    series = [found.cells.get((shown.feature, at)) for at in found.windows]
    drawn = [_histogram(name, shown.bins, first)] if shown.bins else []
    drawn.append(_over_time(name, found, series, first))
    columns = (
        ("figure", ""), ("value", "number"), ("n", "number"), ("reference", "number"), ("reference n", "number"),
        ("quiet 95%", "number"), ("threshold", "number"), ("verdict", ""), ("", ""),
    )  # fmt: skip
    rows = [
        (one.metric, _number(one.value), f"{one.n:,}", _number(one.reference_value), f"{one.reference_n:,}",
         _number(one.quiet_95), _number(one.threshold), chip(one.verdict, _TONES.get(one.verdict, "open")),
         element("small", one.message))
        for one in shown.figures
    ]  # fmt: skip
    about = (
        f"{first.n:,} rows against {first.reference_n:,} of the reference. Quiet 95%: what the figure stays below "
        "nineteen times in twenty where nothing drifts at this n."
    )
    missing = "" if shown.bins else empty("No histogram was kept for this cell.")
    return section(
        f"{name}, {_window(first)}", charts(drawn, wide=True), missing, table(columns, rows, f"Figures of {name}"),
        key="cell", about=about,
    )  # fmt: skip


def _histogram(name: str, bins: Sequence[Bin], figure: Figure) -> Chart:
    labels = [one.label for one in bins]
    return Chart(
        "histogram",
        f"{name}: reference and window",
        f"Share of rows by bin, {_window(figure)}",
        [
            Bars("reference", labels, [one.reference for one in bins], colour(0)),
            Bars("this window", labels, [one.current for one in bins], colour(1)),
        ],
        percent=True,
    )


def _over_time(name: str, found: Drift, series: Sequence[Figure | None], figure: Figure) -> Chart:
    quiet = [one.quiet_95 if one else None for one in series]
    lines = [Line(found.metric, found.days, [one.value if one else None for one in series], colour(1), markers=True)]
    if any(one is not None and math.isfinite(one) for one in quiet):
        lines.append(Line("quiet 95%", found.days, quiet, colour(0), dash="dash"))
    levels = [Level(figure.threshold, "threshold")] if math.isfinite(figure.threshold) else []
    return Chart("over-time", f"{name}: {found.metric} over time", "Each window against the reference", lines,
                 levels=levels)  # fmt: skip


def _performance(found: Drift) -> Markup:
    by: dict[str, list[Figure]] = {}
    for one in found.performance:
        by.setdefault(one.metric, []).append(one)
    if not by:
        text = (
            "No outcome has come for these predictions, and no estimate was made. Publish what came true to the topic "
            "outcomes with the request's id; the next drift run computes accuracy, AUC and calibration from it."
        )
        return section("Performance over time", empty(text, "penstock drift run"), key="performance")
    drawn = [
        _against(metric, by.get(metric, []), by.get(estimate, []))
        for metric, estimate in _ESTIMATED
        if metric in by or estimate in by
    ]
    drawn += [_against(metric, by[metric], []) for metric in _ALONE if metric in by]
    about = "Measured where outcomes have come; estimated from calibrated scores where they have not."
    return section("Performance over time", charts(drawn, wide=True), key="performance", about=about)


def _against(metric: str, measured: Sequence[Figure], estimated: Sequence[Figure]) -> Chart:
    lines = []
    if measured:
        at, values = [called(one.start, one.end) for one in measured], [one.value for one in measured]
        lines.append(Line("measured", at, values, colour(1), markers=True))
    if estimated:
        at, values = [called(one.start, one.end) for one in estimated], [one.value for one in estimated]
        lines.append(Line("estimated", at, values, colour(2), dash="dash"))
    some = [*measured, *estimated]
    reference = next((one.reference_value for one in some if math.isfinite(one.reference_value)), math.nan)
    levels = [Level(reference, "reference", colour(0), "dash")] if math.isfinite(reference) else []
    fell = [one for one in measured if one.verdict == "drift"]
    name = metric.replace("_", " ")
    name = {"auc": "AUC", "f1": "F1"}.get(metric, name.capitalize())
    limited = any(math.isfinite(one.threshold) for one in measured)
    about = f"{len(fell)} of {len(measured)} windows are worse than what is allowed" if limited else ""
    about = about if measured else "Estimated only"
    return Chart(f"performance-{metric}", name, about, lines, levels=levels, zero=False)


def _window(figure: Figure) -> str:
    if (figure.end - figure.start).total_seconds() == 86_400:
        return f"{figure.start.day} {figure.start:%b %Y}"
    days = (figure.end - figure.start).total_seconds() / 86_400
    if days > 1:
        last = called(figure.start, figure.end)
        return f"{days:g} days to {last.day} {last:%b %Y}"
    return f"{numbers.moment(figure.start)} to {numbers.moment(figure.end)}"


def _length(seconds: str) -> str:
    return numbers.span_of_time(timedelta(seconds=int(seconds)))


def _band(figure: Figure, bands: Sequence[float]) -> str:
    if not math.isfinite(figure.value) or figure.verdict == "too few":
        return "none"
    return f"h{sum(abs(figure.value) >= one for one in bands)}"


def _heads(windows: Sequence[datetime], number: int, every: int) -> str:
    """What is above a column: its day, with the month where that is news."""
    at = windows[number]
    if number % every:
        return ""
    clock = "" if at.hour == 0 else f" {at:%H:%M}"
    before = windows[number - every] if number else None
    return f"{at.day}{clock}" if before is not None and before.month == at.month else f"{at.day} {at:%b}{clock}"


def _short(value: float) -> str:
    if not math.isfinite(value):
        return ""
    return f"{value:.2f}".lstrip("0") if abs(value) < 1 else f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"


def _number(value: float) -> str:
    return numbers.number(value, numbers.places(None, value)) if math.isfinite(value) else numbers.NONE
