"""How far a histogram has moved from its reference: the population stability index, and what noise alone makes of it.

PSI = sum over bins of (a - e) ln(a / e), a and e the shares now and in the reference (Siddiqi, "Credit Risk
Scorecards", 2006). Without a shift it is about (1/n + 1/m) times chi-square with bins - 1 degrees of freedom
(Yurdakul and Naranjo, "Statistical properties of the population stability index", 2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from scipy.special import chdtri

from models.profile_bins import feature_shares

# A share that is none: ln needs a number, and a bin that was empty in the reference is news, not infinity.
FLOOR: Final = 1e-4
# A sliding window is looked at every moment, so that what one look in twenty would show is shown all the time.
NOISE: Final = 1e-4


@dataclass(frozen=True, slots=True)
class Reference:
    """What scores and features are held against. `what`: where it comes from. `rows`: how many it was counted over.

    `scores`: counts or shares by the bins of BatchSummary. `features`: shares by the bins of `models.profile_bins`.
    """

    what: str
    rows: int
    scores: tuple[float, ...] = ()
    features: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shift:
    """A PSI, the rows it was computed over, and what noise alone reaches once in 10,000 looks at so many."""

    psi: float
    n: int
    noise: float


def shift_of(
    counts: Sequence[int],
    reference: Sequence[float],
    reference_rows: int,
    unseen: tuple[float, float] | None = None,
) -> Shift:
    """The shift of a histogram; the shorter of the two goes on with zeros. A PSI of NaN where either is empty.

    Bins that are empty in both do not count. One that is empty in one of them has a share of `FLOOR` there. `unseen`:
    the shares that chance may leave out of the histogram, and of its reference; then an empty bin has as much there as
    in the other, up to these.
    """
    width = max(len(counts), len(reference))
    now = [*counts, *[0] * (width - len(counts))]
    then = [*reference, *[0.0] * (width - len(reference))]
    n, total = sum(now), math.fsum(then)
    if not n or total <= 0:
        return Shift(float("nan"), n, float("nan"))
    shares = [(a / n, e / total) for a, e in zip(now, then, strict=True) if a or e]
    if unseen is None:
        bins = [(max(a, FLOOR), max(e, FLOOR)) for a, e in shares]
    else:
        bins = [(max(a, min(unseen[0], e)), max(e, min(unseen[1], a))) for a, e in shares]
    psi = math.fsum((a - e) * math.log(a / e) for a, e in bins)
    if len(bins) < 2:
        return Shift(psi, n, 0.0)
    scale = 1 / n + (1 / reference_rows if reference_rows > 0 else 0.0)
    return Shift(psi, n, scale * float(chdtri(len(bins) - 1, NOISE)))


def from_profile(what: str, profile: Mapping[str, Any], signature: Any) -> Reference | None:
    """A manifest's reference profile; None where it has none. Raises ValueError in a line where it cannot be read."""
    if not profile:
        return None
    try:
        rows = int(profile["rows"])
        scores = tuple(float(count) for count in profile.get("score", {}).get("histogram", ()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{what}: {type(error).__name__}: {error}") from None
    if any(not math.isfinite(one) or one < 0 for one in scores):
        raise ValueError(f"{what}: score.histogram holds what is no count")
    return Reference(what, rows, scores, feature_shares(profile, signature))
