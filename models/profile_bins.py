"""Counts a batch's features in the bins of its version's reference profile, so that drift can be seen as it comes.

The profile is the manifest's (`penstock.flights.evaluation.profile` says its form): numeric features have inner edges,
bin i holding edges[i-1] < x <= edges[i]; categories have the shares of their values. One more bin, the last, counts
null, or values outside the vocabulary. What a profile says of a feature that the signature lacks, or says otherwise
than so, is left out: it was made for something else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

from models.signature import Signature
from models.specs import FeatureSpec
from schemas.tensors import Array

# Rows of a batch that are counted: more would cost more than they tell.
SAMPLED: Final = 64
# A vocabulary larger than this is left out: its bins would be most of a summary.
MOST_VALUES: Final = 128


@dataclass(frozen=True, slots=True)
class _Numeric:
    """The numeric features of one input: their columns [k], their edges [k, most] (+inf where there are fewer)."""

    input: str
    names: tuple[str, ...]
    columns: Array
    edges: Array
    bins: tuple[int, ...]

    def count(self, rows: Array) -> dict[str, tuple[int, ...]]:
        """`rows` [n, ...]."""
        values = rows.reshape(len(rows), -1)[:, self.columns]
        # Rows above each edge: a comparison for every edge is cheaper than a search for every value.
        above = (values[:, :, None] > self.edges).sum(axis=0)
        null = np.isnan(values).sum(axis=0)
        steps = np.concatenate([(len(rows) - null)[:, None], above, np.zeros((len(null), 1), above.dtype)], axis=1)
        counts = (steps[:, :-1] - steps[:, 1:]).tolist()
        return {
            name: (*own[:bins], empty)
            for name, own, bins, empty in zip(self.names, counts, self.bins, null.tolist(), strict=True)
        }


@dataclass(frozen=True, slots=True)
class _Categories:
    """A feature whose input holds a value's place in the vocabulary."""

    input: str
    name: str
    column: int
    size: int

    def count(self, rows: Array) -> dict[str, tuple[int, ...]]:
        """`rows` [n, ...]."""
        codes = rows.reshape(len(rows), -1)[:, self.column].astype(np.int64)
        known = np.where((codes >= 0) & (codes < self.size), codes, self.size)
        return {self.name: tuple(np.bincount(known, minlength=self.size + 1).tolist())}


class FeatureBins:
    """Counts the features of one version. False where there is nothing to count."""

    def __init__(self, profile: Mapping[str, Any], signature: Signature) -> None:
        numeric: dict[str, list[tuple[FeatureSpec, list[float]]]] = {}
        self._counters: list[_Numeric | _Categories] = []
        floats = {one.name for one in signature.inputs if one.dtype.kind == "f"}
        for spec, described in _described(profile, signature):
            if spec.vocabulary:
                self._counters.append(_Categories(spec.input, spec.name, spec.index or 0, len(spec.vocabulary)))
            elif spec.input in floats and (edges := _edges(described)) is not None:
                numeric.setdefault(spec.input, []).append((spec, edges))
        for name, members in numeric.items():
            most = max(len(edges) for _, edges in members)
            dtype = next(one.dtype for one in signature.inputs if one.name == name)
            self._counters.append(
                _Numeric(
                    name,
                    tuple(spec.name for spec, _ in members),
                    np.array([spec.index or 0 for spec, _ in members], np.intp),
                    np.array([edges + [math.inf] * (most - len(edges)) for _, edges in members], dtype),
                    tuple(len(edges) + 1 for _, edges in members),
                )
            )

    def __bool__(self) -> bool:
        return bool(self._counters)

    def count(self, parts: Sequence[Mapping[str, Array]]) -> dict[str, tuple[int, ...]]:
        """Histograms of at most about `SAMPLED` rows, evenly taken from all parts; each part's inputs are [rows, ...].

        Every bin is there, empty ones too.
        """
        if not self._counters or not parts:
            return {}
        parts = parts[:: -(-len(parts) // SAMPLED)]
        first = self._counters[0].input
        step = max(1, -(-sum(len(part[first]) for part in parts) // SAMPLED))
        taken: dict[str, Array] = {}
        found: dict[str, tuple[int, ...]] = {}
        for counter in self._counters:
            rows = taken.get(counter.input)
            if rows is None:
                pieces = [part[counter.input][::step] for part in parts]
                rows = taken[counter.input] = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
            found.update(counter.count(rows))
        return found


def feature_shares(profile: Mapping[str, Any], signature: Signature) -> dict[str, tuple[float, ...]]:
    """The reference's share of each bin that `FeatureBins` counts, by feature."""
    found: dict[str, tuple[float, ...]] = {}
    for spec, described in _described(profile, signature):
        null = float(described.get("null_share", 0.0))
        shares = described["shares"]
        if spec.vocabulary:
            known = [float(shares.get(value, 0.0)) for value in spec.vocabulary]
            found[spec.name] = (*known, max(0.0, 1.0 - math.fsum(known)))
        elif (edges := _edges(described)) is not None and len(shares) == len(edges) + 1:
            found[spec.name] = (*(float(one) * (1.0 - null) for one in shares), null)
    return found


def _described(profile: Mapping[str, Any], signature: Signature) -> list[tuple[FeatureSpec, Mapping[str, Any]]]:
    """The features of which profile and signature say the same kind of thing."""
    described = profile.get("features")
    if not isinstance(described, Mapping):
        return []
    found = []
    for spec in signature.features:
        own = described.get(spec.name)
        shares = own.get("shares") if isinstance(own, Mapping) else None
        fits = len(spec.vocabulary) <= MOST_VALUES and isinstance(shares, Mapping if spec.vocabulary else list)
        if isinstance(own, Mapping) and fits:
            found.append((spec, own))
    return found


def _edges(described: Mapping[str, Any]) -> list[float] | None:
    """Rising, finite edges; None where there are none such."""
    edges = described.get("edges")
    if not isinstance(edges, list) or not all(isinstance(one, int | float) and math.isfinite(one) for one in edges):
        return None
    found = [float(one) for one in edges]
    return found if found and all(a < b for a, b in pairwise(found)) else None
