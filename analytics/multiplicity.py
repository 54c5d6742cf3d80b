"""p-values that stay honest when several metrics and arms are asked at once.

An adjusted p-value is compared with alpha itself. Guardrails are not adjusted: they must all hold (see
`statistics.non_inferior`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analytics.results import Result, StatisticError

Correction = Literal["holm", "hochberg", "benjamini-hochberg", "none"]

_CORRECTIONS: Final = get_args(Correction)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Family-wise error under any dependence: max over j <= i of (m - j + 1)·p(j), at most 1 (Holm 1979)."""
    ordered, order = _ordered(p_values)
    raised = np.maximum.accumulate(ordered * np.arange(len(ordered), 0, -1))
    return _back(raised, order)


def hochberg(p_values: Sequence[float]) -> tuple[float, ...]:
    """Family-wise error under independence or positive dependence: min over j >= i of (m - j + 1)·p(j) (Hochberg 1988).

    Never larger than Holm's.
    """
    ordered, order = _ordered(p_values)
    scaled = ordered * np.arange(len(ordered), 0, -1)
    return _back(np.minimum.accumulate(scaled[::-1])[::-1], order)


def benjamini_hochberg(p_values: Sequence[float]) -> tuple[float, ...]:
    """False discovery rate under independence or positive dependence (Benjamini and Hochberg 1995); scipy's."""
    ordered, _ = _ordered(p_values)
    if not len(ordered):
        return ()
    return tuple(float(one) for one in stats.false_discovery_control(np.asarray(p_values, dtype=float), method="bh"))


_BY_NAME: Final[Mapping[str, Callable[[Sequence[float]], tuple[float, ...]]]] = {
    "holm": holm,
    "hochberg": hochberg,
    "benjamini-hochberg": benjamini_hochberg,
}


def adjust(results: Mapping[str, Result], correction: Correction = "holm") -> dict[str, Result]:
    """The same results with p-values corrected for one another, by key (a metric, or a metric and an arm).

    Results without a p-value stay as they are and count for nothing. Intervals are not changed. Raises `StatisticError`
    for an unknown correction.
    """
    if correction not in _CORRECTIONS:
        raise StatisticError(f"correction must be one of {', '.join(_CORRECTIONS)}, not {correction!r}")
    asked = {name: result.p_value for name, result in results.items() if result.p_value is not None}
    if correction == "none" or not asked:
        return dict(results)
    raised = dict(zip(asked, _BY_NAME[correction](list(asked.values())), strict=True))
    name = f"{correction} over {len(asked)}"
    return {key: one.with_p_value(raised[key], name) if key in raised else one for key, one in results.items()}


def _ordered(p_values: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    given = np.asarray(p_values, dtype=np.float64)
    for one in given:
        if not 0 <= one <= 1:
            raise StatisticError(f"a p-value must lie from 0 to 1, not {one}")
    order = np.argsort(given, kind="stable")
    return given[order], order


def _back(ordered: NDArray[np.float64], order: NDArray[np.intp]) -> tuple[float, ...]:
    found = np.empty_like(ordered)
    found[order] = np.minimum(ordered, 1.0)
    return tuple(float(one) for one in found)
