"""How well one version answers as another does, on the same rows; mathematics only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import ArtifactError
from models.signature import Signature
from schemas.tensors import BYTES, Array

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two versions on the same rows.

    `agreement`: Lin's concordance of the scores, or the least of any output where there is no score; 1 is the same.
    `mean_abs`, `max_abs`: of the differences, in the unit of the outputs. `rank_correlation`: Spearman's, of the
    scores (NaN without). `auc_before`, `auc_after`: against labels (NaN without).
    """

    rows: int
    agreement: float
    mean_abs: float
    max_abs: float
    rank_correlation: float = math.nan
    auc_before: float = math.nan
    auc_after: float = math.nan

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; what is not known is left out."""
        return {name: value for name, value in asdict(self).items() if value == value}


def agreement_of(
    signature: Signature,
    before: Mapping[str, Array],
    after: Mapping[str, Array],
    rows: int,
    labels: Array | None = None,
) -> Agreement:
    """Compare the outputs of two versions for `rows` rows. `labels` [rows]: 1 and 0, NaN where not known.

    Raises `ArtifactError` where the second one's are not finite, or where there is nothing to compare.
    """
    if signature.score is not None:
        pairs = {signature.score.output: (signature.scores(before, rows), signature.scores(after, rows))}
    else:
        pairs = {
            one.name: (before[one.name].astype(np.float64).ravel(), after[one.name].astype(np.float64).ravel())
            for one in signature.outputs
            if one.datatype != BYTES
        }
    if not pairs or not rows:
        raise ArtifactError("there is nothing to compare: the sample has no rows, or the model no numeric output")
    for name, (_, new) in pairs.items():
        if not np.isfinite(new).all():
            raise ArtifactError(
                f"output {name!r} has {int((~np.isfinite(new)).sum())} values that are no finite numbers"
            )
    differences = np.concatenate([np.abs(new - old) for old, new in pairs.values()])
    scores = next(iter(pairs.values())) if signature.score is not None else None
    known = scores is not None and labels is not None
    return Agreement(
        rows,
        min(concordance(old, new) for old, new in pairs.values()),
        float(differences.mean()),
        float(differences.max()),
        rank_correlation(*scores) if scores is not None else math.nan,
        auc(scores[0], np.asarray(labels, np.float64)) if known and scores is not None else math.nan,
        auc(scores[1], np.asarray(labels, np.float64)) if known and scores is not None else math.nan,
    )


def concordance(x: Floats, y: Floats) -> float:
    """Lin's concordance correlation coefficient: 2 cov / (var + var + (difference of means)^2).

    Unlike Pearson's it falls where y is shifted or scaled as well. Constant and the same: 1; constant and not: 0.
    L. I. Lin, "A concordance correlation coefficient to evaluate reproducibility", Biometrics 45 (1989), eq. 2.
    """
    spread = float(x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    if spread == 0:
        return 1.0
    return float(2 * ((x - x.mean()) * (y - y.mean())).mean() / spread)


def rank_correlation(x: Floats, y: Floats) -> float:
    """Spearman's, with mean ranks for ties; NaN where one of them is constant."""
    ranks = [_ranks(one) for one in (x, y)]
    if any(one.std() == 0 for one in ranks):
        return math.nan
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def auc(scores: Floats, labels: Floats) -> float:
    """Area under the ROC curve by Mann and Whitney's U, over rows whose label is known; NaN for one class alone."""
    known = ~np.isnan(labels)
    scores, positive = scores[known], labels[known] > 0.5
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros:
        return math.nan
    return float((_ranks(scores)[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def _ranks(values: Floats) -> Floats:
    """Ranks from 1, ties at their mean."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: Floats = ends - (counts - 1) / 2
    return means[where]
