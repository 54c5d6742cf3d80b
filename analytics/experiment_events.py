"""Writes the statement that makes metrics' statistics of the events of slots' units, in one pass over each source.

Pure, like `analytics.experiment_sql`. The events of a source (an outcome, the predictions, or an outcome beside the
prediction it names) are gathered by user once, as arrays of moments and values, for all metrics that ask for it; each
metric then takes what lies in its window. So a source is read and its users are hashed once, and what is joined with
the units is a row a user and not a row an event.
"""

# ruff: noqa: S608 - this file writes statements; see analytics/experiment_sql.py for what goes into them

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from analytics.definitions import Metric, Source
from analytics.experiment_sql import CLOCK_SKEW, RUN_COLUMNS, bin_of, moment, sources, units_of, users_of

# Nothing that is measured is as large as this: such a value is some language's largest number, of 32 bits or of 64, and
# stands for a missing one. It does not count, as NaN does not: with a square that is not finite no look would be
# possible. Of values below it even the products of eight are finite.
ABSURD: Final = 1e38
_ONE: Final = "1."
_PREDICTED: Final = {
    "score": "ifNull(p.score, nan)",
    "latency_ms": "(toUnixTimestamp64Micro(p.scored_at) - toUnixTimestamp64Micro(p.sent_at)) / 1000",
    "error": "toFloat64(p.code != 'OK')",
    "rows": _ONE,
}
_SCORE: Final = "ifNull(p.score, nan)"
_CLIPPED: Final = f"least(greatest({_SCORE}, 1e-7), 1 - 1e-7)"
_REPORTED: Final = {
    "value": "o.value",
    "one": _ONE,
    "correct": f"toFloat64(({_SCORE} > {{threshold}}) = (o.value > 0.5))",
    "log_loss": f"-(o.value * log({_CLIPPED}) + (1 - o.value) * log(1 - {_CLIPPED}))",
    "squared_error": f"pow({_SCORE} - o.value, 2)",
    "absolute_error": f"abs({_SCORE} - o.value)",
}
# A prediction that waits for the outcomes that name it takes as much memory as so many numbers.
_OF_A_REQUEST: Final = 8
# What cannot be anything but a number, and none that is absurd, needs no asking.
_SURE: Final = frozenset({_ONE, _PREDICTED["latency_ms"], _PREDICTED["error"]})
_PAIRS: Final = ("yy", "xx", "cc", "dd", "yx", "yc", "yd", "xc", "xd", "cd")


@dataclass(frozen=True, slots=True, order=True)
class Feed:
    """A source of events: an outcome, perhaps `joined` with the predictions it names; predictions where it is ''."""

    outcome: str
    joined: bool


@dataclass(frozen=True, slots=True)
class _Side:
    """What a metric takes of a feed (y and c, or x and d): events whose `doubtful` values are numbers, none absurd."""

    feed: Feed
    aggregate: str
    value: str
    doubtful: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Gathered:
    """A feed in a statement: its name there, the values that it brings, and the times that metrics want of it."""

    name: str
    feed: Feed
    values: tuple[str, ...]
    window: timedelta
    before: timedelta


def feeds(metrics: Iterable[Metric]) -> list[Feed]:
    """The sources that these metrics share, in the order in which `compute` numbers them."""
    return sorted({side.feed for one in metrics for side in _sides(one)})


def width(metrics: Sequence[Metric]) -> int:
    """How many numbers `compute` holds in memory of each event."""
    shared = [_gathered(number, feed, metrics) for number, feed in enumerate(feeds(metrics))]
    return sum(1 + len(one.values) + bool(one.before) + _OF_A_REQUEST * one.feed.joined for one in shared)


def compute(metrics: Sequence[Metric], slots: Sequence[int], grain: int, *, narrow: bool, repeats: bool) -> str:
    """Put the statistics of these slots' units into experiment_stats, of all these metrics.

    Parameters are `names` and `keys` of the metrics in their order, and {outcome0:String} and so on, those of `feeds`.
    `narrow` is that of `units_of`. `repeats`: whether outcomes may be there more than once, see `repeated`.
    """
    shared = [_gathered(number, feed, metrics) for number, feed in enumerate(feeds(metrics))]
    joins = "".join(
        f"""
            LEFT JOIN ({_events(one, slots, grain, narrow=narrow, repeats=repeats)}
            ) AS {one.name} ON u.user_id = {one.name}.user_id"""
        for one in shared
    )
    places = {one: f"e.{at}" for at, one in enumerate("yxcd", 3)}
    used = _used(metrics)
    sums = [f"sum({places[one]})" if one in used else "0." for one in "yxcd"]
    sums += [f"sum({places[one[0]]} * {places[one[1]]})" if set(one) <= used else "0." for one in _PAIRS]
    arrays = ", ".join(_unit(at, one, {each.feed: each for each in shared}) for at, one in enumerate(metrics))
    silent = ", ".join(str(at) for at, one in enumerate(metrics) if one.only_with_events)
    binned = ", ".join(str(at) for at, one in enumerate(metrics) if one.binned)
    return f"""
        INSERT INTO experiment_stats
            (experiment, started_at, grain, metric, metric_key, slot, computed, variant, bin, n, events,
             y, x, c, d, {", ".join(_PAIRS)})
        SELECT {RUN_COLUMNS}, {{names:Array(String)}}[m + 1], {{keys:Array(String)}}[m + 1], slot, {{computed:UInt64}},
            variant, {"bin" if binned else "0"}, count(), sum(e.2), {", ".join(sums)}
        FROM
        (
            SELECT u.slot AS slot, u.variant AS variant, [{arrays}] AS metrics
            FROM
            (
                SELECT user_id, slot, toUnixTimestamp64Micro(at) AS at, low AS variant
                FROM ({units_of(slots, grain, narrow=narrow)}) WHERE low = high
            ) AS u{joins}
        )
        ARRAY JOIN metrics AS e
        {f"WHERE e.2 > 0 OR e.1 NOT IN ({silent})" if silent else ""}
        GROUP BY slot, variant, e.1 AS m{f", if(m IN ({binned}), {bin_of('e.3')}, 0) AS bin" if binned else ""}"""


def repeated(metrics: Sequence[Metric], slots: Sequence[int]) -> str:
    """How many outcomes `compute` would find more than once (two hashes that are equal by chance make no harm)."""
    shared = [_gathered(number, feed, metrics) for number, feed in enumerate(feeds(metrics))]
    counts = [
        f"SELECT count() - uniqExact({_IDENTITY}) AS found FROM outcomes WHERE {_about(one, slots)}"
        for one in shared
        if one.feed.outcome
    ]
    return f"SELECT sum(found) FROM ({' UNION ALL '.join(counts) or 'SELECT 0 AS found'})"


def _sides(metric: Metric) -> list[_Side]:
    y, x = metric.source, metric.denominator
    if x is None or (x.outcome, x.prediction) != (y.outcome, y.prediction):
        return [
            _Side(Feed(one.outcome, one.by_request), one.aggregate, _value(one), _doubtful([_value(one)]))
            for one in sources(metric)
        ]
    # Both sides are of the same events, so that a ratio of one outcome is a mean over its requests.
    feed = Feed(y.outcome, y.by_request or x.by_request)
    doubtful = _doubtful([_value(y), _value(x)])
    return [_Side(feed, one.aggregate, _value(one), doubtful) for one in (y, x)]


def _doubtful(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(one for one in dict.fromkeys(values) if one not in _SURE)


def _value(source: Source) -> str:
    if source.prediction:
        return _PREDICTED[source.prediction]
    return _REPORTED[source.value].replace("{threshold}", repr(source.threshold))


def _used(metrics: Iterable[Metric]) -> set[str]:
    """Which of y, x, c and d can be anything but 0."""
    used = {"y"}
    for one in metrics:
        used |= {"x"} if one.denominator else set()
        used |= {"c"} if one.covariate_window else set()
        used |= {"d"} if one.denominator and one.covariate_window else set()
    return used


def _gathered(number: int, feed: Feed, metrics: Iterable[Metric]) -> _Gathered:
    mine = [(one, side) for one in metrics for side in _sides(one) if side.feed == feed]
    values = dict.fromkeys(value for _, side in mine for value in (side.value, *side.doubtful) if value != _ONE)
    return _Gathered(
        f"f{number}",
        feed,
        tuple(values),
        max(one.window for one, _ in mine),
        max(one.covariate_window or timedelta() for one, _ in mine),
    )


def _unit(number: int, metric: Metric, by_feed: dict[Feed, _Gathered]) -> str:
    """The metric's number, a unit's count of events, and its y, x, c and d, as a tuple."""
    sides = _sides(metric)
    post = [_kept(by_feed[one.feed], one, metric, before=False) for one in sides]
    numbers = [_aggregated(one, kept) for one, kept in zip(sides, post, strict=True)]
    if metric.cap_value is not None:
        numbers[0] = f"least({numbers[0]}, {metric.cap_value!r})"
    past = [
        _aggregated(one, _kept(by_feed[one.feed], one, metric, before=True)) if metric.covariate_window else "0."
        for one in sides
    ]
    absent = ["0."] * (2 - len(sides))
    return f"(toUInt8({number}), length({post[0]}), {', '.join([*numbers, *absent, *past, *absent])})"


def _kept(gathered: _Gathered, side: _Side, metric: Metric, *, before: bool) -> str:
    """The values of a unit's events in the metric's window after its first exposure, or before it."""
    at, window = (
        f"{gathered.name}.at",
        _micros(metric.covariate_window or timedelta()) if before else _micros(metric.window),
    )
    conditions = [f"t < u.at AND t >= u.at - {window}" if before else f"t >= u.at AND t <= u.at + {window}"]
    arrays = {"t": at}
    if gathered.before and not before:
        arrays["mine"] = f"{gathered.name}.mine"
        conditions.append("mine")
    for value in (side.value, *side.doubtful):
        if value != _ONE:
            arrays[f"v{gathered.values.index(value)}"] = f"{gathered.name}.v{gathered.values.index(value)}"
    conditions += [f"abs(v{gathered.values.index(one)}) < {ABSURD!r}" for one in side.doubtful]
    first = "t" if side.value == _ONE else f"v{gathered.values.index(side.value)}"
    names = [first, *(one for one in arrays if one != first)]
    return f"arrayFilter(({', '.join(names)}) -> {' AND '.join(conditions)}, {', '.join(arrays[one] for one in names)})"


def _aggregated(side: _Side, kept: str) -> str:
    """A unit's events as one number: 0 where there are none."""
    if side.aggregate == "count" or (side.value == _ONE and side.aggregate == "sum"):
        return f"toFloat64(length({kept}))"
    if side.value == _ONE:
        return f"toFloat64(notEmpty({kept}))"
    how = {
        "sum": f"arraySum({kept})",
        "mean": f"arrayAvg({kept})",
        "max": f"arrayMax({kept})",
        "any": f"toFloat64(arrayExists(v -> v > 0, {kept}))",
    }
    return how[side.aggregate]


def _events(gathered: _Gathered, slots: Sequence[int], grain: int, *, narrow: bool, repeats: bool) -> str:
    """A user's events, whatever slots they are for: user_id, at (microseconds), v0 and so on, and whether `mine`.

    `mine` are those of the experiment, which alone count after the exposure; there are others only where there is a
    time before.
    """
    first = min(slots) - gathered.before.total_seconds()
    last = max(slots) + grain + gathered.window.total_seconds()
    some = f"AND user_id IN ({users_of(slots, grain)})" if narrow else ""
    predictions = f"""
                SELECT user_id, request_id, score, code, sent_at, scored_at, experiment, variant FROM predictions
                WHERE model = {{model:String}} AND scored_at >= {moment(first)} AND scored_at <= {moment(last)}
                    AND user_id != '' {some}
                    {"" if gathered.before else "AND experiment = {experiment:String} AND variant != ''"}"""
    outcomes = ""
    if gathered.feed.outcome:
        about = _about(gathered, slots)
        outcomes = _last_word(about, some, repeats=repeats)
    exposed = "p.experiment = {experiment:String} AND p.variant != ''"
    if not gathered.feed.outcome:
        events, user, at, mine = f"({predictions}) AS p", "p", "p.scored_at", exposed
    elif gathered.feed.joined:
        events = f"""(SELECT * FROM ({outcomes}) WHERE request_id != '') AS o
            INNER JOIN ({predictions} AND code = 'OK'
                AND isFinite(ifNull(score, nan))) AS p ON o.request_id = p.request_id AND o.user_id = p.user_id"""
        user, at, mine = "p", "p.scored_at", exposed
    else:
        events = f"({outcomes}) AS o"
        user, at, mine = "o", "o.occurred_at", "o.experiment IN ({experiment:String}, '')"
    columns = [f"{user}.user_id AS user_id", f"groupArray(toUnixTimestamp64Micro({at})) AS at"]
    if gathered.before:
        columns.append(f"groupArray(toUInt8({mine})) AS mine")
    columns += [f"groupArray({value}) AS v{number}" for number, value in enumerate(gathered.values)]
    return f"""
            SELECT {", ".join(columns)}
            FROM {events}
            WHERE {user}.user_id != '' AND {at} >= {moment(first)} AND {at} <= {moment(last)}
                {f"AND o.logged >= {at} - toIntervalMicrosecond({_micros(CLOCK_SKEW)})" if outcomes else ""}
                {"" if gathered.before else f"AND {mine}"}
            GROUP BY user_id"""


def _about(gathered: _Gathered, slots: Sequence[int]) -> str:
    """The condition that says which outcomes can be of a feed, by what does not change where one is repeated."""
    earliest = min(slots) - (gathered.before + CLOCK_SKEW).total_seconds()
    return f"name = {{outcome{gathered.name[1:]}:String}} AND log_time >= {moment(earliest)}"


# Of an outcome, and perhaps of others: those are told apart where one of them is repeated.
_IDENTITY: Final = "cityHash64(outcome_id)"
# (log_time, log_offset) as one number, which is compared ten times as fast as a tuple.
_LATER: Final = "bitShiftLeft(toUInt128(toUnixTimestamp64Milli(t.log_time)), 64) + toUInt64(t.log_offset)"


def _again(about: str) -> str:
    return f"SELECT {_IDENTITY} FROM outcomes WHERE {about} GROUP BY {_IDENTITY} HAVING count() > 1"


def _last_word(about: str, some: str, *, repeats: bool) -> str:
    """Outcomes of the model, of those that were reported again the last word alone.

    That is what FINAL does, for those that need it: FINAL itself would merge all that it reads, for half of the time
    of a whole look.
    """
    columns = "user_id, request_id, experiment, value, occurred_at"
    model = "model IN ({model:String}, '')"
    changing = ("request_id", "model", "value", "occurred_at")
    last = ", ".join(f"argMax(t.{one}, {_LATER}) AS {one}" for one in changing)
    once = f"SELECT {columns}, log_time AS logged FROM outcomes WHERE {about} AND {model} {some}"
    if not repeats:
        return once
    which = some or f"AND {_IDENTITY} IN ({_again(about)})"
    told = f"""
                SELECT {columns}, logged FROM
                (
                    SELECT t.user_id AS user_id, t.experiment AS experiment, {last}, max(t.log_time) AS logged
                    FROM outcomes AS t WHERE {about} {which} GROUP BY t.experiment, t.user_id, t.outcome_id
                )
                WHERE {model}"""
    return told if some else f"{once} AND {_IDENTITY} NOT IN ({_again(about)}) UNION ALL {told}"


def _micros(duration: timedelta) -> int:
    return round(duration / timedelta(microseconds=1))
