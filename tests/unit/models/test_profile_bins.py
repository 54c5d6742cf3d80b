"""The worker's live histograms are the counts that a loop over the profile's definition finds."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from models.profile_bins import SAMPLED, FeatureBins, feature_shares
from models.registry import ModelStore
from models.signature import FeatureSpec, Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec("x", "FP32", ("rows", 3)), TensorSpec("place", "INT64", ("rows",))),
    outputs=(TensorSpec("y", "FP32", ("rows",)),),
    features=(
        FeatureSpec("a", "x", 0, allow_nan=True),
        FeatureSpec("b", "x", 1, allow_nan=True),
        FeatureSpec("c", "x", 2, allow_nan=True),
        FeatureSpec("where", "place", vocabulary=("EWR", "JFK"), unseen=2),
    ),
)
PROFILE = {
    "rows": 100,
    "features": {
        "a": {"kind": "numeric", "edges": [0.5, 1.5, 3.0], "shares": [0.1, 0.2, 0.3, 0.4], "null_share": 0.5},
        "b": {"kind": "numeric", "edges": [2.0], "shares": [0.5, 0.5], "null_share": 0.0},
        "where": {"kind": "categorical", "shares": {"EWR": 0.75, "LGA": 0.25}, "null_share": 0.0},
    },
}
EDGES = {"a": (0, [0.5, 1.5, 3.0]), "b": (1, [2.0])}
values = st.floats(-1, 5, width=32) | st.sampled_from([0.5, 1.5, 2.0, 3.0, math.nan, math.inf, -math.inf])


def by_hand(rows: np.ndarray, column: int, edges: list[float]) -> tuple[int, ...]:
    counts = [0] * (len(edges) + 2)
    for value in rows[:, column].tolist():
        counts[-1 if math.isnan(value) else sum(edge < value for edge in edges)] += 1
    return tuple(counts)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        arrays.arrays(np.float32, st.tuples(st.integers(1, 9), st.just(3)), elements=values), min_size=1, max_size=4
    )
)
def test_every_row_is_in_the_bin_that_the_profile_s_definition_says(parts: list[np.ndarray]) -> None:
    rng = np.random.default_rng(len(parts))
    places = [rng.integers(-1, 4, len(part)) for part in parts]
    found = FeatureBins(PROFILE, SIGNATURE).count(
        [{"x": part, "place": place} for part, place in zip(parts, places, strict=True)]
    )
    whole, place = np.concatenate(parts), np.concatenate(places)
    assert found == {
        **{name: by_hand(whole, *where) for name, where in EDGES.items()},
        "where": (int((place == 0).sum()), int((place == 1).sum()), int(((place < 0) | (place > 1)).sum())),
    }


def test_the_reference_has_a_share_for_each_bin() -> None:
    shares = feature_shares(PROFILE, SIGNATURE)
    assert shares["a"] == (0.05, 0.1, 0.15, 0.2, 0.5)
    assert shares["where"] == (0.75, 0.0, 0.25)
    store = ModelStore("models/zoo")
    for version in ("1", "2"):
        manifest = store.manifest("flight-delay", version)
        rows = {
            one.name: np.zeros((1000, *(extent for extent in one.shape[1:] if isinstance(extent, int))), one.dtype)
            for one in manifest.signature.inputs
        }
        counted = FeatureBins(manifest.profile, manifest.signature).count([rows])
        own = feature_shares(manifest.profile, manifest.signature)
        assert {name: len(counts) for name, counts in counted.items()} == {name: len(one) for name, one in own.items()}
        assert len(counted) >= 14


def test_a_large_batch_is_sampled_evenly_and_a_crowd_of_small_parts_too() -> None:
    bins = FeatureBins(PROFILE, SIGNATURE)
    half = np.repeat(np.array([[0.0, 9.0, 0.0], [9.0, 0.0, 0.0]], np.float32), 500, axis=0)
    counted = bins.count([{"x": half, "place": np.zeros(1000, np.int64)}])
    assert sum(counted["a"]) == sum(counted["where"]) <= SAMPLED
    assert abs(counted["b"][0] - counted["b"][1]) <= 1
    crowd = bins.count([{"x": half[:1], "place": np.zeros(1, np.int64)}] * 1000)
    assert SAMPLED // 2 <= sum(crowd["a"]) <= SAMPLED


def test_a_profile_for_something_else_is_left_out() -> None:
    for profile in (
        {},
        {"features": 5},
        {"features": {"other": {"edges": [1.0], "shares": [0.5, 0.5]}}},
        {"features": {"a": {"edges": [1.0, 1.0], "shares": [0.2, 0.3, 0.5]}, "where": {"shares": [1.0]}}},
        {"features": {"a": {"edges": ["x"], "shares": [0.5, 0.5]}, "b": None}},
    ):
        bins = FeatureBins(profile, SIGNATURE)
        assert not bins
        assert bins.count([{"x": np.zeros((1, 3), np.float32), "place": np.zeros(1, np.int64)}]) == {}
        assert feature_shares(profile, SIGNATURE) == {}
    assert FeatureBins(PROFILE, SIGNATURE)
    assert FeatureBins(PROFILE, SIGNATURE).count([]) == {}
