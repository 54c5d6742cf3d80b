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

# An outcome that was logged longer than this before it happened, or before what it is about was scored, has a wrong
# clock and does not count: so only the log since then need be read, whatever slots are computed together.
CLOCK_SKEW: Final = timedelta(hours=1)
BIN_GAMMA: Final = 101 / 99
_BIN_SHIFT: Final = 1100
_BIN_LEAST: Final = 1e-9
_OF_FIRST: Final = ("variant", "version", "worker", "partition")
EXPOSURES: Final = ("experiment", "started_at", "grain", "slot", "user_id", "first_at", *_OF_FIRST, "low", "high")
# One number for a combination of these, of which there are few. Each column is hashed by itself: ClickHouse then hashes
# the entries of a column's dictionary, and not its rows.
_FIRST: Final = " + ".join(f"{2 * at + 1} * cityHash64({one})" for at, one in enumerate(_OF_FIRST))
# Users are picked by a hash, which experiment_exposures keeps: a number is looked up three times as fast as a string.
# Where two users share one, both are picked: what follows goes by user_id again.
_USER_HASH: Final = "cityHash64(user_id)"
# What outcomes that replace each other have in common: where others share it by chance, a slot is computed in vain.
_SAME_OUTCOME: Final = "cityHash64(name, experiment, user_id, outcome_id)"
RUN: Final = "experiment = {experiment:String} AND started_at = {started_at:DateTime64(6)} AND grain = {grain:UInt32}"
RUN_COLUMNS: Final = "{experiment:String}, {started_at:DateTime64(6)}, {grain:UInt32}"


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


def moment(seconds: float) -> str:
    """A moment as DateTime64, of seconds since the epoch."""
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


def fresh(slots: Sequence[int], grain: int, *, of_first: bool = False) -> str:
    """Units that these slots' predictions show: user_id, first_at, low and high as in experiment_exposures.

    `of_first` adds `first`, a hash of the first prediction's variant, version, worker and partition: the earliest of
    numbers is found in a third of the time that the earliest of four strings takes. `_firsts` says what they were.
    """
    return f"""
        SELECT user_id, min(scored_at) AS first_at, min(variant) AS low, max(variant) AS high
            {f", argMin({_FIRST}, scored_at) AS first" if of_first else ""}
        FROM predictions WHERE user_id != '' AND {_exposing(slots, grain)}
        GROUP BY user_id"""


def _firsts(table: str, where: str) -> str:
    """What the hashes of _FIRST in a table stand for: first, f_variant and so on."""
    names = ", ".join(f"any({one}) AS f_{one}" for one in _OF_FIRST)
    return f"SELECT {_FIRST} AS first, {names} FROM {table} WHERE {where} GROUP BY first"


def _exposing(slots: Sequence[int], grain: int) -> str:
    return f"""model = {{model:String}} AND experiment = {{experiment:String}} AND variant != ''
            AND scored_at >= {moment(min(slots))} AND scored_at < {moment(max(slots) + grain)}
            AND scored_at >= {{started_at:DateTime64(6)}} AND scored_at < {{ended_at:DateTime64(6)}}
            {"" if len(ranges(slots, grain)) == 1 else f"AND {within(slot_of('scored_at'), slots, grain)}"}"""


def units(users: str = "", slots: str = "", *, of_first: bool = False) -> str:
    """The run's units as far as they are folded: user_id, at, low, high, slot (of the first exposure).

    `users`: a query of hashes of user ids; `slots`: a condition on `slot`. Both are narrowings. `of_first` adds `first`
    as in `fresh`.
    """
    some = f"AND user_hash IN ({users})" if users else ""
    first = f", argMin({_FIRST}, first_at) AS first" if of_first else ""
    return f"""
        SELECT user_id, min(first_at) AS at, min(low) AS low, max(high) AS high, {slot_of("at")} AS slot{first}
        FROM experiment_exposures WHERE {RUN} {some} GROUP BY user_id {f"HAVING {slots}" if slots else ""}"""


def units_of(slots: Sequence[int], grain: int, *, narrow: bool, of_first: bool = False) -> str:
    """`units` whose first exposure lies in these slots. `narrow` pays where the slots are few of all that are folded.

    By the table's order a slot's rows lie together. A unit may have an earlier row, so all of its rows are asked.
    """
    return units(users_of(slots, grain, "user_hash") if narrow else "", within("slot", slots, grain), of_first=of_first)


def users_of(slots: Sequence[int], grain: int, column: str = "user_id") -> str:
    """Users seen in these slots for the first time in some fold: their units, and a few more."""
    return f"SELECT {column} FROM experiment_exposures WHERE {RUN} AND {within('slot', slots, grain)}"


def fold_all(slots: Sequence[int], grain: int) -> str:
    """Put what these slots' predictions tell into experiment_exposures, where nothing is known yet."""
    return f"""
        INSERT INTO experiment_exposures ({", ".join(EXPOSURES)})
        SELECT {_exposures()}
        FROM ({fresh(slots, grain, of_first=True)}) AS f
        INNER JOIN ({_firsts("predictions", _exposing(slots, grain))}) AS h ON f.first = h.first"""


def news(slots: Sequence[int], grain: int) -> str:
    """Rows for experiment_exposures: what these slots' predictions tell that is not known.

    `disturbed` is the slot of a known unit that they show otherwise (exposed earlier, or in a second variant), else 0.
    """
    known = units(f"SELECT {_USER_HASH} FROM predictions WHERE {_exposing(slots, grain)}")
    otherwise = "f.first_at < k.at OR (k.low = k.high AND (f.low != k.low OR f.high != k.high))"
    return f"""
        SELECT {_exposures()}, if(k.user_id != '' AND ({otherwise}), toUnixTimestamp(k.slot), 0) AS disturbed
        FROM ({fresh(slots, grain, of_first=True)}) AS f
        LEFT JOIN ({known}) AS k ON f.user_id = k.user_id
        INNER JOIN ({_firsts("predictions", _exposing(slots, grain))}) AS h ON f.first = h.first
        WHERE k.user_id = '' OR f.first_at < k.at OR f.low < k.low OR f.high > k.high"""


def _exposures() -> str:
    first = [f"h.f_{one}" for one in _OF_FIRST]
    values = [slot_of("f.first_at"), "f.user_id", "f.first_at", *first, "f.low", "f.high"]
    run = RUN_COLUMNS.split(", ")
    return ", ".join(f"{value} AS {name}" for value, name in zip([*run, *values], EXPOSURES, strict=True))


def count_units(slots: Sequence[int], grain: int, *, narrow: bool) -> str:
    """Put the units of these slots by variant and slice into experiment_counts."""
    return f"""
        INSERT INTO experiment_counts
            (experiment, started_at, grain, slot, computed, slice, value, variant, units)
        SELECT {RUN_COLUMNS}, slot, {{computed:UInt64}}, slice.1, slice.2, if(alone, f_variant, '') AS variant,
            sum(alike)
        FROM
        (
            SELECT slot, first, low = high AS alone,
                arrayExists(
                    (lo, hi) -> bucket >= lo AND bucket < hi, {{lows:Array(UInt16)}}, {{highs:Array(UInt16)}}
                ) AS early,
                count() AS alike
            FROM
            (
                SELECT *, toUInt16(xxh3({{salt:String}} || ':' || user_id) % 10000) AS bucket
                FROM ({units_of(slots, grain, narrow=narrow, of_first=True)})
            )
            GROUP BY slot, first, alone, early
        ) AS c
        INNER JOIN ({_firsts("experiment_exposures", f"{RUN} AND {within('slot', slots, grain)}")}) AS h
            ON c.first = h.first
        ARRAY JOIN [
            ('all', ''), ('partition', toString(f_partition)), ('worker', toString(f_worker)),
            ('version', toString(f_version)), ('joined', if(early, 'start', 'later'))
        ] AS slice
        GROUP BY slot, slice, variant"""


def sealed(metric_key: str, more: str = "1") -> str:
    """(slot, computed) of the computations that hold. `metric_key` is an SQL expression."""
    return f"""SELECT slot, max(computed) FROM experiment_sealed
        WHERE {RUN} AND metric_key = {metric_key} AND {more} GROUP BY slot"""


def late_outcomes(metrics: Sequence[Metric], places: Sequence[tuple[int, int]]) -> str:
    """Slots of units about which outcomes have come behind these places of the log, or were corrected there.

    An outcome that is told again counts with its last word, so a slot in which an earlier word counted is one of them.
    That word must still be there: of those that were logged on one day (UTC), a merge keeps the last.
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
    new = f"""outcomes
        WHERE name IN {{names:Array(String)}} AND log_time >= {{since:DateTime64(3)}} AND ({behind or "0"})"""
    # Picked by user first, which the table's order finds; by a hash then, of which many are held in little memory.
    words = f"""outcomes
        WHERE name IN {{names:Array(String)}}
            AND log_time >= {{started_at:DateTime64(6)}} - {_interval(before + CLOCK_SKEW)}
            AND user_id IN (SELECT user_id FROM {new}) AND {_SAME_OUTCOME} IN (SELECT {_SAME_OUTCOME} FROM {new})"""
    in_time = f"n.occurred_at BETWEEN k.at - {_interval(before)} AND k.at + {_interval(after)}"
    return f"""
        SELECT DISTINCT toUnixTimestamp(k.slot) AS slot
        FROM (SELECT user_id, occurred_at FROM {new if any_time else words}) AS n
        INNER JOIN ({units(f"SELECT {_USER_HASH} FROM {new}")}) AS k ON n.user_id = k.user_id
        WHERE {"1" if any_time else in_time}"""


def sources(metric: Metric) -> list[Source]:
    """Where a metric's events come from."""
    return [metric.source, *([metric.denominator] if metric.denominator else [])]


def _interval(duration: timedelta) -> str:
    return f"toIntervalMicrosecond({round(duration / timedelta(microseconds=1))})"


def bin_of(value: str) -> str:
    """The bin of an expression of type Float64."""
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
