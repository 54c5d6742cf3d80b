"""Definitions of experiments: monotone ramps, and JSON that says which key is wrong."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from models.routing import BUCKETS, Experiment, ExperimentError, Router, Variant

NAMES = ("a", "b", "c", "d")
VERSIONS = {name: str(number) for number, name in enumerate(NAMES)}
# Hundredths of a percent and shares that are no whole number of buckets.
shares_ = st.dictionaries(
    st.sampled_from(NAMES), st.integers(0, BUCKETS).map(lambda n: n / BUCKETS) | st.floats(0, 1), min_size=1
)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
json_ = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(),
    lambda one: st.lists(one) | st.dictionaries(st.text(), one),
    max_leaves=5,
)


def at_most_all(shares: dict[str, float]) -> dict[str, float]:
    total = max(1.0, math.fsum(shares.values()))
    return {name: shares.get(name, 0.0) / total for name in NAMES}


full = shares_.map(at_most_all)


def buckets_of(variant: Variant) -> set[int]:
    return {at for lo, hi in variant.ranges for at in range(lo, hi)}


def owned(experiment: Experiment) -> dict[str, set[int]]:
    return {variant.name: buckets_of(variant) for variant in experiment.variants}


def share_of(experiment: Experiment) -> dict[str, float]:
    return {variant.name: variant.share for variant in experiment.variants}


@settings(deadline=None)
@given(full)
def test_a_share_is_owned_to_one_bucket_in_ten_thousand(shares: dict[str, float]) -> None:
    experiment = Experiment.create("e", "m", shares, VERSIONS)
    for variant in experiment.variants:
        assert shares[variant.name] - 1 / BUCKETS < variant.share <= shares[variant.name] + 1e-9
    assert sum(len(one) for one in owned(experiment).values()) == len(set().union(*owned(experiment).values()))


@pytest.mark.parametrize("percent", range(101))
def test_a_whole_percentage_is_exact(percent: int) -> None:
    experiment = Experiment.create("e", "m", {"a": percent / 100, "b": 1 - percent / 100}, {"a": "1", "b": "2"})
    assert [len(one) for one in owned(experiment).values()] == [percent * 100, BUCKETS - percent * 100]


@settings(max_examples=60, deadline=None)
@given(full, st.lists(full, max_size=6))
def test_no_sequence_of_raises_moves_a_user_out(first: dict[str, float], steps: list[dict[str, float]]) -> None:
    shares = {name: share / 4 for name, share in first.items()}
    experiment = Experiment.create("e", "m", shares, VERSIONS)
    for step in steps:
        raised = {name: max(shares[name], step[name]) for name in NAMES}
        if math.fsum(raised.values()) > 1:
            continue
        before, experiment, shares = owned(experiment), experiment.ramp(raised), raised
        for name, buckets in owned(experiment).items():
            assert before[name] <= buckets


@settings(max_examples=100, deadline=None)
@given(full, full)
def test_a_ramp_takes_users_only_from_variants_it_lowers(first: dict[str, float], then: dict[str, float]) -> None:
    experiment = Experiment.create("e", "m", first, VERSIONS)
    ramped = experiment.ramp(then)
    for name in NAMES:
        before, after = owned(experiment)[name], owned(ramped)[name]
        if then[name] >= first[name]:
            assert before <= after, "users left a variant that was not lowered"
        else:
            assert after <= before, "users came to a variant that was lowered"


@settings(max_examples=60, deadline=None)
@given(full, st.sampled_from(NAMES), st.floats(0, 1))
def test_lowering_one_share_touches_no_other_variant_and_raising_it_again_brings_its_users_back(
    shares: dict[str, float], name: str, factor: float
) -> None:
    experiment = Experiment.create("e", "m", shares, VERSIONS)
    lowered = experiment.ramp({name: shares[name] * factor})
    assert {**owned(experiment), name: None} == {**owned(lowered), name: None}
    assert owned(lowered)[name] <= owned(experiment)[name]
    assert lowered.ramp(shares) == experiment


def test_raising_takes_users_who_were_in_no_variant_before_those_another_gives_up() -> None:
    experiment = Experiment.create("e", "m", {"a": 0.4, "b": 0.2}, {"a": "1", "b": "2"})
    ramped = owned(experiment.ramp({"a": 0.2, "b": 0.5}))
    assert not ramped["b"] & owned(experiment)["a"]


@settings(deadline=None)
@given(shares_)
def test_shares_above_100_percent_are_refused(shares: dict[str, float]) -> None:
    assume(math.fsum(shares.values()) > 1 + 1e-4)
    versions = dict.fromkeys(shares, "1")
    with pytest.raises(ExperimentError, match=r"shares add up to .*%, more than 100%"):
        Experiment.create("e", "m", shares, versions)
    empty = Experiment.create("e", "m", dict.fromkeys(shares, 0.0), versions)
    with pytest.raises(ExperimentError, match="more than 100%"):
        empty.ramp(shares)


def test_a_ramp_counts_the_shares_it_does_not_name() -> None:
    experiment = Experiment.create("e", "m", {"a": 0.6, "b": 0.2}, {"a": "1", "b": "2"})
    with pytest.raises(ExperimentError, match=r"add up to 110.00%"):
        experiment.ramp({"b": 0.5})


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"a": -0.1}, "shares.a must be between 0 and 1, got -0.1"),
        ({"a": 50}, "shares.a must be between 0 and 1, got 50"),
        ({"a": math.nan}, "shares.a must be between 0 and 1, got nan"),
        ({"z": 0.1}, "shares.z is no variant of it; it has a, b"),
    ],
)
def test_a_share_that_makes_no_sense_is_refused_by_name(shares: dict[str, float], message: str) -> None:
    experiment = Experiment.create("e", "m", {"a": 0.1, "b": 0.1}, {"a": "1", "b": "2"})
    with pytest.raises(ExperimentError) as caught:
        experiment.ramp(shares)
    assert str(caught.value) == f"experiment 'e': {message}"


def test_a_variant_needs_a_share_and_a_version() -> None:
    with pytest.raises(ExperimentError, match="variant 'b' needs both a share and a version"):
        Experiment.create("e", "m", {"a": 0.5, "b": 0.5}, {"a": "1"})


@settings(deadline=None)
@given(full, full, st.sampled_from(["", "home", "früh"]), st.booleans(), texts)
def test_a_definition_survives_json_and_assigns_the_same(
    first: dict[str, float], then: dict[str, float], layer: str, stopped: bool, name: str
) -> None:
    assume(not name.startswith("layer:"))
    ranges = ((10, 20), (500, 9000)) if layer else ((0, BUCKETS),)
    experiment = Experiment.create(name, "m", first, VERSIONS, layer=layer, layer_ranges=ranges).ramp(then)
    experiment = experiment.stop() if stopped else experiment
    back = Experiment.from_json(experiment.to_json())
    assert back == experiment
    users = list(map(str, range(50)))
    assert Router([back]).assign_many(name, users) == Router([experiment]).assign_many(name, users)


def definition() -> dict[str, Any]:
    body: dict[str, Any] = json.loads(Experiment.create("e", "m", {"a": 0.5, "b": 0.5}, {"a": "1", "b": "2"}).to_json())
    return body


WRONG: list[tuple[list[str | int], Any, str]] = [
    (["name"], "", "name must not be empty"),
    (["model"], 7, "model must be a string, got 7"),
    (["salt"], None, "salt must be a string, got null"),
    (["salt"], "layer:home", "salt must not start with 'layer:'"),
    (["status"], "paused", 'status must be running or stopped, got "paused"'),
    (["variants"], {}, "variants must be a list, got {}"),
    (["variants"], [], "variants needs at least one variant"),
    (["variants", 0], "a", 'variants[0] must be an object, got "a"'),
    (["variants", 1, "version"], 2, "variants[1].version must be a string, got 2"),
    (["variants", 1, "name"], "a", "variants[1].name 'a' is there twice"),
    (["variants", 1, "weight"], 2, "variants[1].weight is no known key"),
    (["variants", 0, "ranges"], [[0, 1, 2]], "variants[0].ranges[0] must be [lo, hi] in whole numbers, got [0, 1, 2]"),
    (["variants", 0, "ranges"], [[0, True]], "variants[0].ranges[0] must be [lo, hi] in whole numbers"),
    (["variants", 0, "ranges"], [[0, 1], [5, 5]], "variants[0].ranges[1] must be [lo, hi) within 0 to 10000"),
    (["variants", 0, "ranges"], [[0, 10001]], "variants[0].ranges[0] must be [lo, hi) within 0 to 10000"),
    (["variants", 0, "ranges"], [[0, 9], [8, 10]], "variants[0].ranges holds bucket 8 twice"),
    (["variants", 0, "ranges"], [[0, 6000]], "variants 'a' and 'b' both own bucket 5000"),
    (["layer_ranges"], [[0, 5]], "layer_ranges means nothing without a layer"),
    (["layer_ranges"], 5, "layer_ranges must be a list of [lo, hi], got 5"),
    (["sticky"], True, "sticky is no known key; there are layer, layer_ranges, model"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG)
def test_a_wrong_key_is_named(path: list[str | int], value: Any, message: str) -> None:
    body = definition()
    place: Any = body
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ExperimentError) as caught:
        Experiment.from_json(json.dumps(body))
    assert message in str(caught.value)
    assert str(caught.value).startswith("experiment")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["name", "model", "salt", "variants"])
def test_a_missing_key_is_named(key: str) -> None:
    body = definition()
    del body[key]
    with pytest.raises(ExperimentError, match=f": {key} is missing"):
        Experiment.from_json(json.dumps(body))


@settings(deadline=None)
@given(st.text() | st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_text_that_is_no_definition_raises_only_the_typed_error(text: str) -> None:
    with pytest.raises(ExperimentError):
        Experiment.from_json(text)


@settings(deadline=None)
@given(st.sampled_from(WRONG), json_)
def test_any_value_anywhere_is_read_or_refused_with_the_typed_error(
    case: tuple[list[str | int], Any, str], value: Any
) -> None:
    body = definition()
    place: Any = body
    for step in case[0][:-1]:
        place = place[step]
    place[case[0][-1]] = value
    with suppress(ExperimentError):
        Experiment.from_json(json.dumps(body))
