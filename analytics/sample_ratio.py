"""Did the arms get the units they should have got: no other number of an experiment means anything unless they did.

A sample-ratio mismatch (Fabijan et al. 2019) says that assignment or logging is broken. `chi_square` looks once;
`watch` may be looked at after every unit; `watch_slices` finds where it is broken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from scipy import special

from analytics.multiplicity import holm
from analytics.results import Result, StatisticError, check_level, check_shares

ALPHA: Final = 0.01


def chi_square(counts: Sequence[int], shares: Sequence[float], *, alpha: float = ALPHA) -> Result:
    """Pearson's chi-square of units by arm against planned shares (of any total), with arms - 1 degrees of freedom.

    `estimate` is the first treatment's share less the planned. Without units, or with fewer than five expected in an
    arm (where the distribution does not hold yet), there is no p-value but a reason. Raises `StatisticError` for counts
    and shares that do not match.
    """
    wanted = _checked(counts, shares, alpha)
    total = sum(counts)
    result = _result("sample ratio, chi-square", counts, wanted, alpha)
    expected = [total * share for share in wanted]
    if min(expected) < 5:
        planned = ", ".join(f"{one:.1%}" for one in wanted)
        return replace(result, reason=f"{total} units are too few to judge arms of {planned}")
    statistic = math.fsum((count - one) ** 2 / one for count, one in zip(counts, expected, strict=True))
    degrees = len(counts) - 1
    p_value = float(special.chdtrc(degrees, statistic))
    return replace(result, p_value=p_value, statistic=statistic, degrees=float(degrees))


def log_evidence(counts: Sequence[int], shares: Sequence[float], concentration: float | None = None) -> float:
    """The logarithm of the evidence (an e-process) against the planned shares.

    The ratio of the Dirichlet-multinomial to the multinomial likelihood of all units so far (Lindon and Malek 2020,
    arXiv 2011.03567), with the Dirichlet centred on the plan: if the shares are as planned it ever exceeds
    1 / alpha with a probability of at most alpha. `concentration`: how many units' worth of belief that a broken share
    is near the planned one; the paper's uniform prior is `arms` with equal shares, larger finds small mismatches
    sooner. Default: see `default_concentration`.
    """
    wanted = _checked(counts, shares, ALPHA)
    weight = default_concentration(len(counts)) if concentration is None else concentration
    if not (math.isfinite(weight) and weight > 0):
        raise StatisticError(f"the concentration must be positive, not {weight}")
    found = float(special.gammaln(weight) - special.gammaln(weight + sum(counts)))
    for count, share in zip(counts, wanted, strict=True):
        found += float(special.gammaln(weight * share + count) - special.gammaln(weight * share))
        found -= count * math.log(share)
    return found


def default_concentration(arms: int) -> float:
    """1,000 units an arm: broken shares are expected within a few percentage points of the plan.

    Chosen so that mismatches of 1% to 10% of a share, which broken logging makes, are found soon.
    """
    return 1000.0 * arms


def watch(
    looks: Sequence[Sequence[int]],
    shares: Sequence[float],
    *,
    alpha: float = ALPHA,
    concentration: float | None = None,
) -> Result:
    """Judge cumulative counts at all looks so far; valid at any look, and once alarmed it stays so.

    The p-value is 1 / the largest evidence so far, `statistic` the logarithm of that. Raises `StatisticError` without a
    look or where a count shrinks.
    """
    if not looks:
        raise StatisticError("at least one look is needed")
    best, before = 0.0, [0] * len(looks[0])
    for number, counts in enumerate(looks, 1):
        best = max(best, log_evidence(counts, shares, concentration))
        if any(now < then for now, then in zip(counts, before, strict=True)):
            raise StatisticError(f"sample ratio: look {number} has fewer units in an arm than the look before")
        before = list(counts)
    wanted = _checked(looks[-1], shares, alpha)
    result = _result("sample ratio, Dirichlet-multinomial e-process", looks[-1], wanted, alpha)
    return replace(result, p_value=math.exp(-best), statistic=best)


def watch_slices(
    looks: Mapping[str, Sequence[Sequence[int]]],
    shares: Sequence[float],
    *,
    alpha: float = ALPHA,
    concentration: float | None = None,
) -> dict[str, Result]:
    """As `watch`, of each slice (a partition, a worker, a day, a version), with Holm's correction over all of them.

    So at most alpha of healthy experiments ever raise any alarm, however slices overlap. Give all units as a slice of
    their own, named `all`. A slice's looks begin when it first appears.
    """
    found = {name: watch(one, shares, alpha=alpha, concentration=concentration) for name, one in looks.items()}
    raised = holm([one.p_value for one in found.values() if one.p_value is not None])
    return {
        name: one.with_p_value(p_value, f"holm over {len(found)} slices")
        for (name, one), p_value in zip(found.items(), raised, strict=True)
    }


def _checked(counts: Sequence[int], shares: Sequence[float], alpha: float) -> tuple[float, ...]:
    check_level("alpha", alpha)
    wanted = check_shares(shares)
    if len(counts) != len(wanted):
        raise StatisticError(f"sample ratio: {len(counts)} arms have units, {len(wanted)} have a share")
    for one in counts:
        if one < 0 or one != int(one):
            raise StatisticError(f"sample ratio: {one} is no count of units")
    return wanted


def _result(method: str, counts: Sequence[int], wanted: Sequence[float], alpha: float) -> Result:
    total = sum(counts)
    values = tuple(one / total for one in counts) if total else None
    return Result(
        method=method,
        n=tuple(counts),
        alpha=alpha,
        values=values,
        estimate=None if values is None else values[1] - wanted[1],
    )
