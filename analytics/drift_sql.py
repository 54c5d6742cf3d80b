"""What ClickHouse counts for drift: bins of every feature and of the score by window and slice, in one pass.

A feature is looked up in the row's map once, its bin is a sum of comparisons with fixed edges, and `countResample`
counts by bin into an array: 20 features of a row cost about a microsecond. Rows are grouped by window and by the
values of all slices at once; what is wanted of one slice, or of all, is a sum of groups.

A feature that a row does not name is null there, as is NaN, and the empty text of a category. Rows that carry no named
features at all (a request may be a tensor) have a score and nothing to be counted of their features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from analytics.drift_axes import SCORE, Axis, CategoryAxis, NumberAxis
from analytics.performance_metrics import BINS, SMALLEST

# Rows that count: a version's scored rows of a time. Places: model, version, begin, end.
ROWS: Final = (
    "model = {model:String} AND version = {version:String} AND code = 'OK' "
    "AND scored_at >= {begin:DateTime64(6)} AND scored_at < {end:DateTime64(6)}"
)
VARIANT: Final = "variant"
# A window's rows by version, from the projection: asking costs next to nothing.
DAYS: Final = """
SELECT model, version, toStartOfDay(minute) AS window_start, sum(rows) AS rows
FROM predictions_per_minute WHERE code = 'OK' GROUP BY model, version, window_start
"""
_DECILES: Final = ", ".join(f"0.{tenth}" for tenth in range(1, 10))
_WINDOW: Final = {"day": "toStartOfDay(scored_at)", "all": "toDateTime64({begin:DateTime64(6)}, 6, 'UTC')"}
_SCORE_BIN: Final = f"toUInt16(least(greatest(ceil(assumeNotNull(score) * {BINS}) - 1, 0), {BINS - 1}))"
_SCORED: Final = "isNotNull(score) AND isFinite(assumeNotNull(score))"


def count(axes: Sequence[Axis], sliced_by: Sequence[str], window: str) -> str:
    """Counts of each axis, an array [bins] each in the axes' order, by window (`day`, or `all`: one) and slices.

    Columns: the window's start, a value for each of `sliced_by` (a category, or `VARIANT`), then the arrays. Places:
    those of `ROWS`.
    """
    named = [*(f"{_slice(by)} AS slice_{at}" for at, by in enumerate(sliced_by))]
    looked_up, arrays = [], []
    for at, axis in enumerate(axes):
        found, place = _bin(axis, at)
        looked_up += found
        arrays.append(f"countResample(0, {axis.bins}, 1)({place})")
    # `mapKeys` and `mapValues` are the two columns that a map is stored as.
    words = ["mapKeys(features) AS k", "mapValues(features) AS v", "mapKeys(categories) AS ck"]
    words += ["mapValues(categories) AS cv", "empty(k) AND empty(ck) AS bare", *looked_up]
    groups = ", ".join(["window_start", *(f"slice_{at}" for at in range(len(sliced_by)))])
    return (
        f"WITH {', '.join(words)} SELECT {', '.join([f'{_WINDOW[window]} AS window_start', *named, *arrays])} "  # noqa: S608 - names are quoted
        f"FROM predictions WHERE {ROWS} GROUP BY {groups}"
    )


def scores(window: str) -> str:
    """Rows and sums of scores by window and bin of score (see `analytics.performance_metrics`)."""
    return (
        f"SELECT {_WINDOW[window]} AS window_start, {_SCORE_BIN} AS bin, count(), sum(assumeNotNull(score)) "  # noqa: S608 - words of ours
        f"FROM predictions WHERE {ROWS} AND {_SCORED} GROUP BY window_start, bin"
    )


def outcomes(sliced_by: Sequence[str]) -> str:
    """Rows beside their outcome by day, slices, bin of score and whether it came true.

    Columns: the day, slices, bin, positive, rows, sum of scores, of log loss, of its square. An outcome that names no
    row of the window is left out, as is one whose value is no finite number. Places: those of `ROWS`, and `outcome`,
    its name, and `logged`, the earliest time at which an outcome of these rows can have been logged.
    """
    named = "".join(f", {_slice(by)} AS slice_{at}" for at, by in enumerate(sliced_by))
    groups = "".join(f", slice_{at}" for at in range(len(sliced_by)))
    p = f"least(greatest(assumeNotNull(score), {SMALLEST}), {1 - SMALLEST})"
    return f"""
    SELECT toStartOfDay(scored_at) AS window_start{named}, {_SCORE_BIN} AS bin, value > 0.5 AS positive, count(),
        sum(assumeNotNull(score)), sum(-if(positive, log({p}), log(1 - {p})) AS loss), sum(loss * loss)
    FROM predictions AS p
    INNER JOIN
    (
        SELECT request_id, value FROM outcomes FINAL
        WHERE name = {{outcome:String}} AND request_id != '' AND log_time >= {{logged:DateTime64(3)}}
            AND isFinite(value)
            AND request_id IN (SELECT request_id FROM predictions WHERE {ROWS})
    ) AS o ON p.request_id = o.request_id
    WHERE {ROWS} AND {_SCORED}
    GROUP BY window_start{groups}, bin, positive
    """  # noqa: S608 - names are quoted


# How far the outcomes of a model have come, by partition of their log. Place: outcome.
ENDS: Final = """
SELECT log, log_partition, max(log_offset) + 1 AS next FROM outcomes WHERE name = {outcome:String}
GROUP BY log, log_partition
"""
# Days of a version about which outcomes have come since the marks. Places: those of ROWS, and outcome.
TOUCHED: Final = f"""
SELECT toStartOfDay(scored_at) AS window_start FROM predictions
WHERE {ROWS} AND request_id IN
(
    SELECT o.request_id FROM outcomes AS o
    LEFT JOIN
    (
        SELECT log, log_partition, max(next) AS seen FROM drift_marks
        WHERE model = {{model:String}} AND version = {{version:String}}
        GROUP BY log, log_partition
    ) AS m ON o.log = m.log AND o.log_partition = m.log_partition
    WHERE o.name = {{outcome:String}} AND o.log_offset >= m.seen
)
GROUP BY window_start
"""  # noqa: S608 - words of ours


def describe_numbers(names: Sequence[str]) -> str:
    """For each number: deciles (interpolated), least, greatest, mean and deviation of its values, for a new profile.

    `SCORE` is the score. A row's column is a tuple; NaN where there is no value. Places: those of `ROWS`.
    """
    parts = []
    for name in names:
        value = (
            "ifNull(score, nan)"
            if name == SCORE
            else f"if(mapContains(features, {quoted(name)}), features[{quoted(name)}], nan)"
        )
        there = f"isFinite({value})"
        parts.append(
            f"(quantilesTDigestIf({_DECILES})({value}, {there}), minIf({value}, {there}), "
            f"maxIf({value}, {there}), avgIf({value}, {there}), stddevPopIf({value}, {there}), countIf({there}))"
        )
    return f"SELECT count(), {', '.join(parts)} FROM predictions WHERE {ROWS}"  # noqa: S608 - names are quoted


def describe_categories(names: Sequence[str], most: int) -> str:
    """For each category its `most` most frequent values, as an array of texts. Places: those of `ROWS`."""
    parts = [f"arrayFilter(x -> x != '', topK({most})(toString(categories[{quoted(name)}])))" for name in names]
    return f"SELECT {', '.join(parts)} FROM predictions WHERE {ROWS}"  # noqa: S608 - names are quoted


NAMES: Final = f"""
SELECT arraySort(groupUniqArrayArray(mapKeys(features))), arraySort(groupUniqArrayArray(mapKeys(categories)))
FROM predictions WHERE {ROWS}
"""  # noqa: S608 - words of ours


def quoted(text: str) -> str:
    """A string literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _slice(by: str) -> str:
    return "toString(variant)" if by == VARIANT else f"toString(categories[{quoted(by)}])"


def _bin(axis: Axis, at: int) -> tuple[list[str], str]:
    """What is to be named before, and the bin's expression: from 0 on, `axis.bins` or more for a row not to count.

    A sum, as a branch in which so much is computed costs more than all else.
    """
    if isinstance(axis, NumberAxis):
        if axis.name == SCORE:
            return [f"ifNull(score, nan) AS x{at}"], _number_bin(axis, f"x{at}")
        name = quoted(axis.name)
        value = [f"indexOf(k, {name}) AS i{at}", f"if(i{at} = 0, nan, v[i{at}]) AS x{at}"]
        return value, f"{_number_bin(axis, f'x{at}')} + {axis.bins} * bare"
    assert isinstance(axis, CategoryAxis)  # noqa: S101 - there is no third
    value = [f"indexOf(ck, {quoted(axis.name)}) AS i{at}", f"if(i{at} = 0, '', toString(cv[i{at}])) AS x{at}"]
    known = "[" + ", ".join(map(quoted, axis.values)) + "]"
    # The values' places from 1; 0 is what is not among them.
    place = (
        f"transform(x{at}, {known}, range(toUInt32({len(axis.values)})), {len(axis.values)})" if axis.values else "0"
    )
    place = f"if(x{at} = '', {axis.bins - 1}, {place})"
    return value, f"toUInt32({place} + {axis.bins} * bare)"


def _number_bin(axis: NumberAxis, x: str) -> str:
    above = [f"({x} >= {_literal(axis.low)})", *(f"({x} > {_literal(edge)})" for edge in axis.edges)]
    return f"if(isNaN({x}), {axis.bins - 1}, {' + '.join([*above, f'({x} > {_literal(axis.high)})'])})"


def _literal(number: float) -> str:
    if math.isinf(number):
        return "inf" if number > 0 else "-inf"
    # With an exponent, so that it is a Float64 whatever its size.
    return f"{number!r}" if "." in repr(number) or "e" in repr(number) else f"{number!r}."
