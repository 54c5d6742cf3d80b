"""Writes the statements of a look: which slots there are, what is new in them, and the statistics of a slot's units.

Pure. What an analyst or a sender named goes in as parameters (`{name:Type}`), never as text; numbers of our own making,
such as slots, are text. A unit's events are one number (y; of a ratio also x), units are sums that add up, and of a
metric that needs the distribution the sums are kept by bins of y: DDSketch's, with a relative error of 1%
(Masson, Rim and Lee, VLDB 2019, section 2).
"""

# ruff: noqa: S608 - this file writes statements; see its docstring for what goes into them

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final

from analytics.definitions import Metric, Source

BIN_GAMMA: Final = 101 / 99
_BIN_SHIFT: Final = 1100
_BIN_LEAST: Final = 1e-9
# An outcome that was logged longer than this before it happened has a wrong clock, and does not count.
CLOCK_SKEW: Final = timedelta(hours=1)
_OF_FIRST: Final = ("variant", "version", "worker", "partition")
RUN: Final = "experiment = {experiment:String} AND started_at = {started_at:DateTime64(6)} AND grain = {grain:UInt32}"
_RUN_COLUMNS: Final = "{experiment:String}, {started_at:DateTime64(6)}, {grain:UInt32}"
_SOURCES: Final = {
    "score": "p.score",
    "latency_ms": "dateDiff('microsecond', p.sent_at, p.scored_at) / 1000",
    "error": "toFloat64(p.code != 'OK')",
    "rows": "1.",
}
_CLIPPED: Final = "least(greatest(p.score, 1e-7), 1 - 1e-7)"
_VALUES: Final = {
    "value": "o.value",
    "one": "1.",
    "correct": "toFloat64((p.score > {threshold}) = (o.value > 0.5))",
    "log_loss": f"-(o.value * log({_CLIPPED}) + (1 - o.value) * log(1 - {_CLIPPED}))",
    "squared_error": "pow(p.score - o.value, 2)",
    "absolute_error": "abs(p.score - o.value)",
}


def slot_of(moment: str) -> str:
    """The slot of an expression of type DateTime64."""
    return f"toDateTime(intDiv(toUnixTimestamp({moment}), {{grain:UInt32}}) * {{grain:UInt32}}, 'UTC')"


def ranges(slots: Iterable[int], grain: int) -> list[tuple[int, int]]:
    """Slots (seconds) as spans [first, last] of slots that follow one another."""
    spans: list[tuple[int, int]] = []
    for slot in sorted(slots):
        if spans and spans[-1][1] + grain == slot:
            spans[-1] = (spans[-1][0], slot)
        else:
            spans.append((slot, slot))
    return spans


def within(column: str, slots: Iterable[int], grain: int) -> str:
    """The condition that a column of slots is one of these."""
    spans = [f"{column} BETWEEN toDateTime({a}, 'UTC') AND toDateTime({b}, 'UTC')" for a, b in ranges(slots, grain)]
    return "(" + (" OR ".join(spans) or "0") + ")"


def _moment(seconds: float) -> str:
    return f"toDateTime64({seconds:.6f}, 6, 'UTC')"


def prediction_slots(grain: int) -> str:
    """Slots of the run and their predictions; whole minutes are counted by the projection per_minute."""
    moment = "toStartOfMinute(scored_at)" if grain % 60 == 0 else "scored_at"
    return f"""
        SELECT toUnixTimestamp({slot_of("moment")}) AS slot, sum(rows) AS rows
        FROM
        (
            SELECT {moment} AS moment, count() AS rows FROM predictions
            WHERE model = {{model:String}} AND experiment = {{experiment:String}} AND variant != ''
                AND {moment} >= {"toStartOfMinute" if grain % 60 == 0 else ""}({{started_at:DateTime64(6)}})
            GROUP BY moment
        )
        GROUP BY slot ORDER BY slot"""


def fresh(slots: Sequence[int], grain: int) -> str:
    """Units that these slots' predictions show, with the columns of experiment_exposures from user_id on."""
    firsts = ", ".join(f"argMin({one}, scored_at) AS f_{one}" for one in _OF_FIRST)
    return f"""
        SELECT user_id, min(scored_at) AS first_at, {firsts}, min(variant) AS low, max(variant) AS high
        FROM predictions
        WHERE model = {{model:String}} AND experiment = {{experiment:String}} AND variant != '' AND user_id != ''
            AND scored_at >= {_moment(min(slots))} AND scored_at < {_moment(max(slots) + grain)}
            AND scored_at >= {{started_at:DateTime64(6)}} AND scored_at < {{ended_at:DateTime64(6)}}
            {"" if len(ranges(slots, grain)) == 1 else f"AND {within(slot_of('scored_at'), slots, grain)}"}
        GROUP BY user_id"""


def units(users: str = "", slots: str = "", *, of_first: bool = False) -> str:
    """The run's units as far as they are folded: user_id, at, low, high, slot (of the first exposure).

    `users`: a query of user ids; `slots`: a condition on `slot`. Both are narrowings. `of_first` adds f_variant,
    f_version, f_worker and f_partition of the first exposure.
    """
    some = f"AND user_id IN ({users})" if users else ""
    firsts = "".join(f", argMin({one}, first_at) AS f_{one}" for one in _OF_FIRST if of_first)
    return f"""
        SELECT user_id, min(first_at) AS at, min(low) AS low, max(high) AS high, {slot_of("at")} AS slot{firsts}
        FROM experiment_exposures WHERE {RUN} {some} GROUP BY user_id {f"HAVING {slots}" if slots else ""}"""


def units_of(slots: Sequence[int], grain: int, *, narrow: bool, of_first: bool = False) -> str:
    """`units` whose first exposure lies in these slots. `narrow` pays where the slots are few of all that are folded.

    By the table's order a slot's rows lie together. A unit may have an earlier row, so all of its rows are asked.
    """
    return units(_users_of(slots, grain) if narrow else "", within("slot", slots, grain), of_first=of_first)


def _users_of(slots: Sequence[int], grain: int) -> str:
    """User ids seen in these slots for the first time in some fold: their units, and a few more."""
    return f"SELECT user_id FROM experiment_exposures WHERE {RUN} AND {within('slot', slots, grain)}"


def disturbed(slots: Sequence[int], grain: int) -> str:
    """Slots whose units these predictions show otherwise: exposed earlier, or in a second variant."""
    return f"""
        SELECT DISTINCT toUnixTimestamp(k.slot) AS slot
        FROM ({fresh(slots, grain)}) AS f
        INNER JOIN ({units(f"SELECT user_id FROM ({fresh(slots, grain)})")}) AS k ON f.user_id = k.user_id
        WHERE f.first_at < k.at OR (k.low = k.high AND (f.low != k.low OR f.high != k.high))"""


def fold(slots: Sequence[int], grain: int, *, nothing_known: bool) -> str:
    """Put what these slots' predictions tell anew into experiment_exposures."""
    insert = f"""
        INSERT INTO experiment_exposures
            (experiment, started_at, grain, slot, user_id, first_at, variant, version, worker, partition, low, high)
        SELECT {_RUN_COLUMNS}, {slot_of("f.first_at")}, f.user_id, f.first_at, f.f_variant, f.f_version, f.f_worker,
            f.f_partition, f.low, f.high
        FROM ({fresh(slots, grain)}) AS f"""
    if nothing_known:
        return insert
    known = units(f"SELECT user_id FROM ({fresh(slots, grain)})")
    return f"""{insert}
        LEFT JOIN ({known}) AS k ON f.user_id = k.user_id
        WHERE k.user_id = '' OR f.first_at < k.at OR f.low < k.low OR f.high > k.high"""


def count_units(slots: Sequence[int], grain: int, *, narrow: bool) -> str:
    """Put the units of these slots by variant and slice into experiment_counts."""
    return f"""
        INSERT INTO experiment_counts
            (experiment, started_at, grain, slot, computed, slice, value, variant, units)
        SELECT {_RUN_COLUMNS}, slot, {{computed:UInt64}}, slice.1, slice.2, variant, sum(alike)
        FROM
        (
            SELECT slot, f_partition, f_worker, f_version, if(low = high, low, '') AS variant,
                arrayExists(
                    (lo, hi) -> bucket >= lo AND bucket < hi, {{lows:Array(UInt16)}}, {{highs:Array(UInt16)}}
                ) AS early,
                count() AS alike
            FROM
            (
                SELECT *, toUInt16(xxh3({{salt:String}} || ':' || user_id) % 10000) AS bucket
                FROM ({units_of(slots, grain, narrow=narrow, of_first=True)})
            )
            GROUP BY slot, f_partition, f_worker, f_version, variant, early
        )
        ARRAY JOIN [
            ('all', ''), ('partition', toString(f_partition)), ('worker', toString(f_worker)),
            ('version', toString(f_version)), ('joined', if(early, 'start', 'later'))
        ] AS slice
        GROUP BY slot, slice, variant"""


def compute(metric: Metric, slots: Sequence[int], grain: int, *, narrow: bool) -> str:
    """Put the statistics of these slots' units that have events into experiment_stats."""
    some = f"AND user_id IN ({_users_of(slots, grain)})" if narrow else ""
    bin_of = _bin("y") if metric.binned else "toInt32(0)"
    cap = f"least(y0, {metric.cap_value!r})" if metric.cap_value is not None else "y0"
    pairs = [a + b for a, b in ("yy", "xx", "cc", "dd", "yx", "yc", "yd", "xc", "xd", "cd")]
    sums = ", ".join(
        [*(f"sum({one}) AS s_{one}" for one in "yxcd"), *(f"sum({p[0]} * {p[1]}) AS s_{p}" for p in pairs)]
    )
    return f"""
        INSERT INTO experiment_stats
            (experiment, started_at, grain, metric, metric_key, slot, computed, variant, bin, n, events,
             y, x, c, d, {", ".join(pairs)})
        WITH u AS
        (
            SELECT user_id, slot, at, low AS variant
            FROM ({units_of(slots, grain, narrow=narrow)}) WHERE low = high
        )
        SELECT {_RUN_COLUMNS}, {{metric:String}}, {{metric_key:String}}, slot, {{computed:UInt64}}, variant,
            {bin_of} AS bin, count(), sum(events), {sums}
        FROM
        (
            SELECT slot, variant, events, {cap} AS y, x, c, d FROM
            (
                SELECT
                    user_id, any(slot) AS slot, any(variant) AS variant, countIf(post AND is_y) AS events,
                    {_aggregate(metric.source, "y", "post")} AS y0,
                    {_aggregate(metric.denominator, "x", "post")} AS x,
                    {_aggregate(metric.source, "y", "NOT post")} AS c,
                    {_aggregate(metric.denominator, "x", "NOT post")} AS d
                FROM ({" UNION ALL ".join(_feeds(metric, slots, grain, some))})
                GROUP BY user_id
            )
            {"WHERE events > 0" if metric.only_with_events else ""}
        )
        GROUP BY slot, variant, bin"""


def compute_silent(metric: Metric, slots: Sequence[int], grain: int) -> str:
    """Put the units without events, whose numbers are all 0, beside what `compute` put there."""
    key = "{metric_key:String}"
    return f"""
        INSERT INTO experiment_stats
            (experiment, started_at, grain, metric, metric_key, slot, computed, variant, bin, n)
        SELECT {_RUN_COLUMNS}, {{metric:String}}, {key}, slot, {{computed:UInt64}}, variant, 0, n
        FROM
        (
            SELECT slot, variant, sum(units) AS n FROM
            (
                SELECT slot, variant, toInt64(units) AS units FROM experiment_counts
                WHERE {RUN} AND slice = 'all' AND variant != '' AND {within("slot", slots, grain)}
                    AND (slot, computed) IN ({sealed("''", within("slot", slots, grain))})
                UNION ALL
                SELECT slot, variant, -n FROM experiment_stats
                WHERE {RUN} AND metric_key = {key} AND computed = {{computed:UInt64}}
                    AND {within("slot", slots, grain)}
            )
            GROUP BY slot, variant
        )
        WHERE n != 0{" AND 0" if metric.only_with_events else ""}"""


def sealed(metric_key: str, more: str = "1") -> str:
    """(slot, computed) of the computations that hold. `metric_key` is an SQL expression."""
    return f"""SELECT slot, max(computed) FROM experiment_sealed
        WHERE {RUN} AND metric_key = {metric_key} AND {more} GROUP BY slot"""


def late_outcomes(metrics: Sequence[Metric], places: Sequence[tuple[int, int]]) -> str:
    """Slots of units about which outcomes have come behind these places of the log.

    `places`: partition and last known offset of each of the logs {log0:String}, {log1:String} and so on; `names` and
    `since` are parameters.
    """
    after = max((one.window for one in metrics), default=timedelta())
    before = max((one.covariate_window or timedelta() for one in metrics), default=timedelta())
    any_time = any(source.by_request for one in metrics for source in sources(one))
    behind = " OR ".join(
        f"(log = {{log{at}:String}} AND log_partition = {partition} AND log_offset > {offset})"
        for at, (partition, offset) in enumerate(places)
    )
    new = f"""
        SELECT user_id, occurred_at FROM outcomes
        WHERE name IN {{names:Array(String)}} AND log_time >= {{since:DateTime64(3)}} AND ({behind or "0"})"""
    in_time = f"n.occurred_at BETWEEN k.at - {_interval(before)} AND k.at + {_interval(after)}"
    return f"""
        SELECT DISTINCT toUnixTimestamp(k.slot) AS slot
        FROM ({new}) AS n INNER JOIN ({units(f"SELECT user_id FROM ({new})")}) AS k ON n.user_id = k.user_id
        WHERE {"1" if any_time else in_time}"""


def sources(metric: Metric) -> list[Source]:
    """Where a metric's events come from."""
    return [metric.source, *([metric.denominator] if metric.denominator else [])]


def _interval(duration: timedelta) -> str:
    return f"toIntervalMicrosecond({round(duration / timedelta(microseconds=1))})"


def _bin(value: str) -> str:
    log_bin = f"ceil(log(abs({value})) / {math.log(BIN_GAMMA)!r})"
    shift = f"{_BIN_SHIFT} + greatest(least({log_bin}, 40000), {1 - _BIN_SHIFT})"
    return f"toInt32(if(abs({value}) < {_BIN_LEAST}, 0, sign({value}) * ({shift})))"


def bin_edge(number: int) -> float:
    """The value in a bin that is farthest from 0; no value of the bin is farther from it than 2%."""
    if number == 0:
        return 0.0
    return math.copysign(BIN_GAMMA ** (abs(number) - _BIN_SHIFT), number)


def bin_value(number: int) -> float:
    """The value that stands for a bin: within 1% of every value in it."""
    return bin_edge(number) * 2 / (1 + BIN_GAMMA)


def _aggregate(source: Source | None, side: str, when: str) -> str:
    if source is None:
        return "0."
    condition = f"{when} AND is_{side}"
    how = {
        "sum": f"sumIf({side}_value, {condition})",
        "mean": f"ifNotFinite(avgIf({side}_value, {condition}), 0)",
        "count": f"toFloat64(countIf({condition}))",
        "max": f"maxIf({side}_value, {condition})",
        "any": f"toFloat64(countIf({condition} AND {side}_value > 0) > 0)",
    }
    return how[source.aggregate]


def _feeds(metric: Metric, slots: Sequence[int], grain: int, some: str) -> list[str]:
    """Events of the units `u`: user_id, slot, variant, post, y_value, x_value, is_y, is_x."""
    x = metric.denominator
    if x is None:
        return [_feed(metric, metric.source, None, slots, grain, some)]
    if (x.outcome, x.prediction) == (metric.source.outcome, metric.source.prediction):
        # Both sides are of the same events, so that a ratio of one outcome is a mean over its requests.
        return [_feed(metric, metric.source, x, slots, grain, some)]
    return [_feed(metric, metric.source, None, slots, grain, some), _feed(metric, None, x, slots, grain, some)]


def _feed(metric: Metric, y: Source | None, x: Source | None, slots: Sequence[int], grain: int, some: str) -> str:
    """Events of one source; `some` narrows the users further than the join with `u` does, before anything is read."""
    chosen = y or x
    if chosen is None:
        raise ValueError("a feed of neither side")
    before = metric.covariate_window or timedelta()
    earliest, latest = min(slots) - before.total_seconds(), max(slots) + grain + metric.window.total_seconds()
    joined = any(one.by_request for one in (y, x) if one)
    values = []
    for side, source in (("y", y), ("x", x)):
        values.append(f"ifNull({_value(source)}, nan) AS {side}_value, {int(source is not None)} AS is_{side}")
    columns = f"u.user_id AS user_id, u.slot AS slot, u.variant AS variant, moment >= u.at AS post, {', '.join(values)}"
    logged = f"log_time >= {_moment(earliest - CLOCK_SKEW.total_seconds())}"
    named = f"name = {{{'y' if y else 'x'}_outcome:String}}"
    finite = " AND ".join(f"isFinite({side}_value)" for side, one in (("y", y), ("x", x)) if one)
    mine = "experiment IN ({experiment:String}, '')"
    predictions = f"""
            SELECT user_id, request_id, score, code, sent_at, scored_at, experiment, variant FROM predictions
            WHERE model = {{model:String}} AND scored_at >= {_moment(earliest)} AND scored_at <= {_moment(latest)}
                AND user_id != '' {some} {"" if before else "AND experiment = {experiment:String}"}"""
    if chosen.prediction:
        events = f"({predictions}) AS p"
        moment, counts = "p.scored_at", "p.experiment = {experiment:String} AND p.variant != ''"
    elif joined:
        events = f"""({_outcomes(named, logged, some)} AND request_id != '') AS o
            INNER JOIN ({predictions} AND code = 'OK'
                AND isFinite(ifNull(score, nan))) AS p ON o.request_id = p.request_id"""
        moment, counts = "p.scored_at", "p.experiment = {experiment:String} AND p.variant != ''"
    else:
        events = f"({_outcomes(named, logged, some)} AND user_id != '') AS o"
        moment, counts = "o.occurred_at", f"o.{mine}"
    user = "o" if events.endswith("AS o") else "p"
    return f"""
        SELECT {columns.replace("moment", moment)}
        FROM {events} INNER JOIN u ON {user}.user_id = u.user_id
        WHERE (({moment} >= u.at AND {moment} <= u.at + {_interval(metric.window)} AND {counts})
            OR ({moment} < u.at AND {moment} >= u.at - {_interval(before)} AND {int(bool(before))}))
            AND {finite}"""


def _outcomes(named: str, logged: str, some: str) -> str:
    """Outcomes of the model, of those that were reported again the last word alone; a condition may follow."""
    about = "model IN ({model:String}, '')"
    if not some:
        columns = "user_id, request_id, experiment, value, occurred_at"
        return f"SELECT {columns} FROM outcomes FINAL WHERE {named} AND {logged} AND {about}"
    # What FINAL does, for the few that are left of a narrow choice: FINAL itself would merge all that it reads.
    changing = ("request_id", "model", "value", "occurred_at")
    last = ", ".join(f"argMax(t.{one}, (t.log_time, t.log_offset)) AS {one}" for one in changing)
    return f"""
            SELECT * FROM
            (
                SELECT t.user_id AS user_id, t.experiment AS experiment, {last}
                FROM outcomes AS t WHERE {named} AND {logged} {some} GROUP BY t.experiment, t.user_id, t.outcome_id
            )
            WHERE {about}"""


def _value(source: Source | None) -> str:
    if source is None:
        return "0."
    if source.prediction:
        return _SOURCES[source.prediction]
    return _VALUES[source.value].replace("{threshold}", repr(source.threshold))
