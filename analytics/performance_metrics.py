"""How good a model's probabilities are, from histograms of scores beside what came true; and, before anything has come
true, from the scores alone. Pure.

Scores lie in [0, 1] and are counted in `BINS` equal bins, each with its upper end in it, so that a score above one half
is a call of the positive class exactly. Counts add up over windows and slices. Accuracy, F1, log loss and the
calibration error are exact; within a bin the area under the curve takes scores for ties, which at a thousand bins
moves it in the fourth digit at most where scores are spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from analytics.results import StatisticError, UndefinedError

Floats = npt.NDArray[np.float64]

BINS: Final = 1000
CALIBRATION_BINS: Final = 10
# A probability of 0 that came true would cost without end.
SMALLEST: Final = 1e-7
_CALL: Final = BINS // 2


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its standard error in `n` rows (NaN where it has none)."""

    value: float
    error: float
    n: int


@dataclass(frozen=True, slots=True, eq=False)
class ScoredOutcomes:
    """Rows whose outcome is known: by bin of score the positive ones, the negative ones and the sum of scores; and the
    sums of log loss (nats) and of its square. Two add up with `+`."""

    positive: Floats
    negative: Floats
    scores: Floats
    loss: float
    loss_squares: float

    def __post_init__(self) -> None:
        for name in ("positive", "negative", "scores"):
            values = getattr(self, name)
            if values.shape != (BINS,) or np.any(values < 0):
                raise StatisticError(f"{name}: expected {BINS} counts, none negative, got {values.shape}")

    def __add__(self, other: ScoredOutcomes) -> ScoredOutcomes:
        return ScoredOutcomes(
            self.positive + other.positive,
            self.negative + other.negative,
            self.scores + other.scores,
            self.loss + other.loss,
            self.loss_squares + other.loss_squares,
        )

    @classmethod
    def nothing(cls) -> ScoredOutcomes:
        """No rows."""
        return cls(np.zeros(BINS), np.zeros(BINS), np.zeros(BINS), 0.0, 0.0)

    @classmethod
    def of(cls, scores: Floats, labels: Floats) -> ScoredOutcomes:
        """Rows as they are: scores [n] in [0, 1], labels [n] of 0 and 1. Raises `StatisticError`."""
        if scores.shape != labels.shape or not np.all((scores >= 0) & (scores <= 1)):
            raise StatisticError("scores must be probabilities, as many as labels")
        at, late = bins_of(scores), labels > 0.5
        p = np.clip(scores, SMALLEST, 1 - SMALLEST)
        loss = -np.where(late, np.log(p), np.log(1 - p))
        return cls(
            np.bincount(at[late], minlength=BINS).astype(np.float64),
            np.bincount(at[~late], minlength=BINS).astype(np.float64),
            np.bincount(at, weights=scores, minlength=BINS).astype(np.float64),
            float(loss.sum()),
            float((loss**2).sum()),
        )

    @property
    def rows(self) -> int:
        """How many."""
        return int(self.positive.sum() + self.negative.sum())

    @property
    def positives(self) -> int:
        """How many came true."""
        return int(self.positive.sum())


def bins_of(scores: Floats) -> npt.NDArray[np.int64]:
    """The bin of each score."""
    return np.clip(np.ceil(scores * BINS).astype(np.int64) - 1, 0, BINS - 1)


def accuracy(some: ScoredOutcomes) -> Estimate:
    """The share of rows called right, with a score above one half as the call. Raises `UndefinedError` without rows."""
    n = _rows(some)
    right = (some.positive[_CALL:].sum() + some.negative[:_CALL].sum()) / n
    return Estimate(float(right), math.sqrt(right * (1 - right) / n), n)


def f1(some: ScoredOutcomes) -> Estimate:
    """The harmonic mean of precision and recall, 2a / (2a + b): a true positives, b wrong calls of either kind.

    The standard error is the delta method's over the multinomial of a, b and the rest (Takahashi et al. 2022). Raises
    `UndefinedError` where nothing was positive and nothing was called so.
    """
    return _f1(some.positive, some.negative)


def auc(some: ScoredOutcomes) -> Estimate:
    """The area under the ROC curve, a tie counting half, with its standard error (DeLong et al. 1988).

    Raises `UndefinedError` unless both classes have rows.
    """
    return _auc(some.positive, some.negative)


def log_loss(some: ScoredOutcomes) -> Estimate:
    """The mean negative log likelihood, in nats. Raises `UndefinedError` without rows."""
    n = _rows(some)
    mean = some.loss / n
    return Estimate(mean, math.sqrt(max(0.0, some.loss_squares / n - mean**2) / n), n)


def calibration_error(some: ScoredOutcomes) -> Estimate:
    """The expected calibration error: over ten equal bins the mean of |mean score - share positive| (Naeini 2015).

    It is above 0 for a model that is calibrated, as shares vary; `calibration_quiet` says by how much. It has no
    standard error. Raises `UndefinedError` without rows.
    """
    n = _rows(some)
    positive, rows, scores = _tenths(some)
    return Estimate(float(np.abs(scores - positive)[rows > 0].sum() / n), math.nan, n)


def calibration_quiet(some: ScoredOutcomes, quantile: float) -> float:
    """What the calibration error of a calibrated model stays below in these rows; `quantile` is the normal's.

    In a bin of k rows with the mean score s the gap is normal with variance s (1 - s) / k, its size therefore half
    normal: mean sqrt(2/pi) and variance 1 - 2/pi of that deviation. The bins' sizes add up.
    """
    n = _rows(some)
    _, rows, scores = _tenths(some)
    used = rows > 0
    mean = np.clip(scores[used] / rows[used], 0.0, 1.0)
    deviations = np.sqrt(mean * (1 - mean) * rows[used]) / n
    expected = math.sqrt(2 / math.pi) * float(deviations.sum())
    return expected + quantile * math.sqrt((1 - 2 / math.pi) * float((deviations**2).sum()))


@dataclass(frozen=True, slots=True)
class Calibrator:
    """Turns scores into probabilities by what the reference's came to: mean scores of its groups and their shares.

    Between groups the gap of share to score is interpolated, beyond the outermost it stays what it is there. The shares
    are made to rise with the score first (isotonic regression, weighted by rows; Zadrozny and Elkan 2002).
    """

    scores: tuple[float, ...]
    shares: tuple[float, ...]

    @classmethod
    def of(cls, groups: Sequence[tuple[float, float, float]]) -> Calibrator:
        """From groups of (rows, mean score, share positive) in order of score. Raises `StatisticError`."""
        if not groups:
            raise StatisticError("a calibration needs a group of scores at least")
        rows, scores, shares = (np.array(column, np.float64) for column in zip(*groups, strict=True))
        if np.any(rows <= 0) or np.any(np.diff(scores) < 0) or np.any((shares < 0) | (shares > 1)):
            raise StatisticError("calibration groups need rows, scores in order, and shares from 0 to 1")
        rising = isotonic_regression(shares, weights=rows).x
        return cls(tuple(scores.tolist()), tuple(float(one) for one in rising))

    def probabilities(self, scores: Floats) -> Floats:
        """What these scores mean."""
        gaps = np.array(self.shares) - np.array(self.scores)
        moved: Floats = np.clip(scores + np.interp(scores, self.scores, gaps), 0.0, 1.0)
        return moved


@dataclass(frozen=True, slots=True)
class Expected:
    """Performance as the scores alone let expect it."""

    accuracy: Estimate
    f1: Estimate | None
    auc: Estimate | None


def expected_performance(counts: Floats, scores: Floats, calibrator: Calibrator | None) -> Expected:
    """Confidence-based performance estimation (CBPE; Bialek et al. 2024, "Estimating model performance under covariate
    shift without labels"): each row is positive with its calibrated probability, and what follows for the figures.

    `counts` and `scores` [BINS]: rows by bin and the sum of their scores; None takes scores for probabilities. It sees
    what a change of the inputs does, and not a change in what the inputs mean. Standard errors are those the figures
    would have if this came true. Raises `UndefinedError` without rows.
    """
    n = int(counts.sum())
    if not n:
        raise UndefinedError("no row was scored")
    used = counts > 0
    mean = np.divide(scores, counts, out=np.zeros(BINS), where=used)
    chance = np.where(used, mean if calibrator is None else calibrator.probabilities(mean), 0.0)
    positive, negative = counts * chance, counts * (1 - chance)
    right = float(positive[_CALL:].sum() + negative[:_CALL].sum()) / n
    return Expected(
        Estimate(right, math.sqrt(right * (1 - right) / n), n), _or_none(_f1, positive, negative),
        _or_none(_auc, positive, negative),
    )  # fmt: skip


def _f1(positive: Floats, negative: Floats) -> Estimate:
    n = float(positive.sum() + negative.sum())
    a = float(positive[_CALL:].sum())
    b = float(negative[_CALL:].sum() + positive[:_CALL].sum())
    if a + b == 0:
        raise UndefinedError("no row is positive, and none was called so")
    p, q = a / n, b / n
    by_p, by_q = 2 * q / (2 * p + q) ** 2, -2 * p / (2 * p + q) ** 2
    variance = (by_p**2 * p + by_q**2 * q - (by_p * p + by_q * q) ** 2) / n
    return Estimate(2 * a / (2 * a + b), math.sqrt(max(0.0, variance)), round(n))


def _auc(positive: Floats, negative: Floats) -> Estimate:
    late, early = float(positive.sum()), float(negative.sum())
    if late <= 0 or early <= 0:
        raise UndefinedError(f"the area under the curve needs both classes: {late:g} rows are positive, {early:g} not")
    # Of each bin the share of the other class that lies on the right side of it.
    won = (np.cumsum(negative) - negative / 2) / early
    lost = (late - np.cumsum(positive) + positive / 2) / late
    area = float((positive * won).sum()) / late
    spread = float((positive * (won - area) ** 2).sum()) / max(late - 1, 1) / late
    spread += float((negative * (lost - area) ** 2).sum()) / max(early - 1, 1) / early
    return Estimate(area, math.sqrt(spread), round(late + early))


def _or_none(figure: Any, positive: Floats, negative: Floats) -> Estimate | None:
    try:
        found: Estimate = figure(positive, negative)
    except UndefinedError:
        return None
    return found


def _rows(some: ScoredOutcomes) -> int:
    if not some.rows:
        raise UndefinedError("no row has an outcome")
    return some.rows


def _tenths(some: ScoredOutcomes) -> tuple[Floats, Floats, Floats]:
    """Positives, rows and sums of scores in ten equal bins."""
    shape = (CALIBRATION_BINS, BINS // CALIBRATION_BINS)
    positive = some.positive.reshape(shape).sum(axis=1)
    return positive, positive + some.negative.reshape(shape).sum(axis=1), some.scores.reshape(shape).sum(axis=1)
