"""Assignment of users to variants: shares, layers, and the same bucket in SQL."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from models.routing import BUCKETS, Experiment, ExperimentError, Router, bucket, bucket_many

# Surrogates cannot be written as UTF-8, so neither Kafka nor JSON can carry them.
texts = st.text(st.characters(exclude_categories=["Cs"]))


def halves(name: str, **more: object) -> Experiment:
    return Experiment.create(name, "m", {"a": 0.5, "b": 0.5}, {"a": "1", "b": "2"}, **more)  # type: ignore[arg-type]


@settings(deadline=None)
@given(texts, st.lists(texts))
def test_the_bucket_is_xxh3_of_salt_and_user_modulo_10000(salt: str, users: list[str]) -> None:
    expected = [xxhash.xxh3_64(f"{salt}:{user}".encode()).intdigest() % 10_000 for user in users]
    assert bucket_many(salt, users) == [bucket(salt, user) for user in users] == expected


def test_xxh3_itself_gives_the_reference_values() -> None:
    # xxHash's own sanity vectors, XXH3_64bits of nothing and of "a" with seed 0.
    assert xxhash.xxh3_64_intdigest(b"") == 0x2D06800538D394C2
    assert xxhash.xxh3_64_intdigest(b"a") == 0xE6C632B61E964E1F
    assert xxhash.xxh3_64_intdigest(b"abc") == 0x78AF5F94892F3950


def test_clickhouse_recomputes_the_same_bucket() -> None:
    pytest.importorskip("chdb")
    users = ["", "u", "N14228", "Zürich", "日本語のユーザー", "🚀" * 5, "a'b\\c", "x" * 300, " ", "a:b"]
    users += [f"user-{number}" for number in range(500)]
    for salt in ("flight", "layer:früh", ""):
        rows = ", ".join(f"unhex('{user.encode().hex()}')" for user in users)
        hashed = f"xxh3(concat(unhex('{salt.encode().hex()}'), ':', arrayJoin([{rows}])))"
        assert ask_clickhouse(f"SELECT {hashed} % 10000") == bucket_many(salt, users)


def ask_clickhouse(query: str) -> list[int]:
    # A process of its own: chDB opens one database in a process, and other tests have theirs open.
    program = "import sys, chdb; print(chdb.query(sys.stdin.read(), 'CSV'))"
    done = subprocess.run([sys.executable, "-c", program], input=query, capture_output=True, text=True, check=True)
    return list(map(int, done.stdout.split()))


def test_shares_hold_and_experiments_are_independent_over_many_users() -> None:
    users = [f"user-{number}" for number in range(1_000_000)]
    buckets = [np.array(bucket_many(f"experiment-{number}", users)) for number in range(10)]
    # 10 share tests and 45 independence tests: at 1e-5 each, a fair hash fails one run in 1,800; the ids are fixed.
    shares = np.array([0.5, 0.3, 0.15, 0.05])
    arms = [np.searchsorted(np.cumsum(shares) * BUCKETS, one, side="right") for one in buckets]
    for one in arms:
        assert stats.chisquare(np.bincount(one, minlength=4), shares * len(users)).pvalue > 1e-5
    for left, right in combinations(arms, 2):
        table = np.bincount(left * 4 + right, minlength=16).reshape(4, 4)
        assert stats.chi2_contingency(table).pvalue > 1e-5


def test_a_router_gives_a_million_users_their_shares() -> None:
    experiment = Experiment.create("e", "m", {"a": 0.5, "b": 0.3, "c": 0.1}, {"a": "1", "b": "2", "c": "3"})
    users = list(map(str, range(1_000_000)))
    found = Counter(one.name if one else "" for one in Router([experiment]).assign_many("e", users))
    expected = {"a": 500_000, "b": 300_000, "c": 100_000, "": 100_000}
    assert stats.chisquare([found[name] for name in expected], list(expected.values())).pvalue > 1e-5


def test_variants_are_balanced_within_each_partition() -> None:
    from schemas.partitioning import partition_for, record_key

    users = [f"user-{number}" for number in range(20_000)]
    arms = np.array(bucket_many("e", users)) < BUCKETS // 2
    partitions = np.array([partition_for(record_key(user, "e"), 8) for user in users])
    table = np.array([np.bincount(partitions[arms], minlength=8), np.bincount(partitions[~arms], minlength=8)])
    assert stats.chi2_contingency(table).pvalue > 1e-5


@settings(deadline=None)
@given(st.lists(texts, max_size=50))
def test_assign_many_is_assign_for_each(users: list[str]) -> None:
    quarters = halves("x", layer="home", layer_ranges=((0, 2500), (7000, 9000)))
    router = Router([halves("plain"), quarters, halves("old").stop()])
    for name in ("plain", "x", "old", "none"):
        assert router.assign_many(name, users) == [router.assign(name, user) for user in users]


def test_an_unknown_or_stopped_experiment_assigns_nobody() -> None:
    router = Router([halves("old").stop()])
    assert router.assign("old", "u") is None
    assert router.assign("never", "u") is None


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, BUCKETS - 1), min_size=1, max_size=4, unique=True), st.integers(0, 10**9))
def test_experiments_of_one_layer_exclude_each_other_and_share_it_all(cuts: list[int], seed: int) -> None:
    ends = [0, *sorted(cuts), BUCKETS]
    experiments = [
        halves(f"e{number}", layer="home", layer_ranges=((lo, hi),)) for number, (lo, hi) in enumerate(pairwise(ends))
    ]
    router = Router(experiments)
    for user in (f"user-{seed + number}" for number in range(200)):
        assert sum(router.assign(one.name, user) is not None for one in experiments) == 1


def test_the_variant_does_not_depend_on_the_place_in_the_layer() -> None:
    users = [f"user-{number}" for number in range(50_000)]
    found = Router([halves("e", layer="home", layer_ranges=((0, 3000),))]).assign_many("e", users)
    arms = Counter(one.name for one in found if one)
    assert stats.binomtest(arms["a"], arms["a"] + arms["b"]).pvalue > 1e-5
    assert stats.binomtest(arms["a"] + arms["b"], len(users), 0.3).pvalue > 1e-5


def test_running_experiments_that_overlap_in_a_layer_are_refused_by_name() -> None:
    one = halves("one", layer="home", layer_ranges=((0, 6000),))
    two = halves("two", layer="home", layer_ranges=((5000, 9000),))
    with pytest.raises(ExperimentError, match=r"'two': layer_ranges overlap .* 'one' in layer 'home' at bucket 5000"):
        Router([one, two])
    Router([one.stop(), two])  # what is stopped has left the layer
    Router([one, halves("two", layer="away")])


def test_two_experiments_of_one_name_are_refused() -> None:
    with pytest.raises(ExperimentError, match="'e': name is there twice"):
        Router([halves("e"), halves("e")])
