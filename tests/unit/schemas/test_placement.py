"""Each model has one pool, whatever patterns fit it, and what control says wins."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.placement import Place, Placement, PlacementError, Pool
from schemas.topics import Topics

TOPICS = Topics("p.")
NAMES = st.text("ab-1", min_size=1, max_size=5)
PATTERNS = st.text("ab-1*?", min_size=1, max_size=5)


def pool(name: str, *models: str, requests: str = "", bulk: str = "") -> Pool:
    return Pool(Place.of_pool(name, "p.", requests, bulk), models)


@pytest.mark.parametrize(
    ("model", "expected"),
    [("bert-large", "large"), ("bert-small", "bert"), ("bert", "default"), ("bart", "any"), ("x", "default")],
)
def test_the_name_itself_wins_then_the_pattern_with_the_most_letters(model: str, expected: str) -> None:
    pools = [pool("bert", "bert-*"), pool("large", "bert-large"), pool("any", "ba?t", "b*-*")]
    found = Placement.create(TOPICS, pools)
    assert found.of(model).pool == expected


@given(st.lists(st.lists(PATTERNS, min_size=1, max_size=3), max_size=4), NAMES)
def test_a_model_is_of_a_pool_that_names_it_and_of_the_same_one_in_any_order(
    patterns: list[list[str]], model: str
) -> None:
    taken: set[str] = set()
    pools = []
    for number, own in enumerate(patterns):
        new = tuple(dict.fromkeys(one for one in own if one not in taken))
        taken.update(new)
        pools.append(pool(f"pool{number}", *new))
    found = Placement.create(TOPICS, pools).of(model)
    assert Placement.create(TOPICS, pools[::-1]).of(model) == found
    fitting = {one.place for one in pools if any(fnmatchcase(model, name) for name in one.models)}
    assert found in (fitting or {Place("default", "p.scoring.requests", "p.scoring.bulk")})
    for one in pools:
        if model in one.models:
            assert found == one.place


def test_what_control_says_wins_until_it_is_taken_back() -> None:
    found = Placement.create(TOPICS, [pool("heavy", "a")])
    assert found.of("a") == Place("heavy", "p.scoring.heavy.requests", "p.scoring.heavy.bulk")
    moved = found.with_moved({"a": Place.default(TOPICS), "b": Place("far", "x.requests", "x.bulk")})
    assert moved.of("a") == Place("default", "p.scoring.requests", "p.scoring.bulk")
    assert moved.of("b").requests == "x.requests"
    assert moved.with_moved({}) == found


def test_a_place_goes_through_json() -> None:
    place = Place.of_pool("heavy", "p.", "mine", "mine.bulk")
    assert place == Place("heavy", "p.mine", "p.mine.bulk")
    assert Place.from_json(place.to_json()) == place


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("no json", "its body is no JSON"),
        ("[]", "its body must be an object with pool, topic, bulk_topic"),
        ('{"pool": "a", "topic": "t"}', "its body must be an object"),
        ('{"pool": "a", "topic": "a b", "bulk_topic": "t"}', "topic: 'a b' is no name of a topic"),
        ('{"pool": "a", "topic": "t", "bulk_topic": ".."}', "bulk_topic: '..' is no name of a topic"),
    ],
)
def test_an_entry_that_cannot_be_obeyed_says_why(body: str, said: str) -> None:
    with pytest.raises(PlacementError, match=said):
        Place.from_json(body)


@pytest.mark.parametrize("name", ["default", "", "He", "a-b", "a.b", "a" * 61, "_a"])
def test_names_under_which_two_pools_could_share_something_are_refused(name: str) -> None:
    with pytest.raises(PlacementError, match="is no name for a pool"):
        Place.of_pool(name)


@pytest.mark.parametrize(
    ("pools", "said"),
    [
        ([pool("a", "m"), pool("b", "m")], "pool b: m is in pool a already"),
        ([pool("a", "m", requests="predictions")], "pool a: topic p.predictions is used by Penstock itself"),
        ([pool("a", "m", requests="t", bulk="t")], "pool a: topic p.t is used by pool a"),
        ([pool("a", "m"), pool("b", "n", bulk="scoring.a.bulk")], "pool b: topic p.scoring.a.bulk is used by pool a"),
        ([pool("a", "m n")], "pool a: 'm n' is no name of models"),
        ([pool("a", "m", bulk="t/t")], "pool a: 'p.t/t' is no name of a topic"),
    ],
)
def test_pools_that_contradict_each_other_are_refused(pools: list[Pool], said: str) -> None:
    with pytest.raises(PlacementError, match=said):
        Placement.create(TOPICS, pools)
