"""A rollout of a good version is not ended by which few users happened to be in it; one that scores otherwise is."""

from __future__ import annotations

import numpy as np
import pytest

from models.rollout import BUCKETS, Guard, Rollout
from schemas.records import BatchSummary
from schemas.tensors import Array
from stream_workers.monitor_windows import MICRO
from stream_workers.rollout_evidence import StepEvidence

NOW = 2_000_000_000 * MICRO
GUARD = Guard(p99_ms=None, p99_ratio=None, min_rows=60)
# Scores of six values stand in every third of the twenty bins; each user's are always the same.
BINS = 3 * np.arange(6) + 1
ROUNDS = 13
# A worker that was killed leaves half of 120 users unseen.
CROWDS = [(60, 0.7), (200, 0.9), (120, 0.7), (120, 0.4), (400, 0.9), (2000, 0.97)]


def breach(share: float, candidates: Array, others: Array, places: Array = BINS) -> str:
    """What a step says in which users with these scores (of the bins in `places`) were answered `ROUNDS` times each."""
    steps = (round(share * BUCKETS), BUCKETS)
    evidence = StepEvidence(
        Rollout("m", "2", "1", "salt", NOW, NOW, steps=steps, step=0, min_requests=60, guard=GUARD)
    )  # fmt: skip
    for version, users in (("2", candidates), ("1", others)):
        rows = ROUNDS * len(users)
        histogram = tuple((ROUNDS * np.bincount(places[users], minlength=20)).tolist())
        one = BatchSummary(
            "b", "w", "cpu", "m", version, "", "", "t", NOW, rows, rows, score_count=rows, score_histogram=histogram
        )  # fmt: skip
        evidence.add(one, 1, shadow=False, wall=NOW)
    return evidence.verdict(len(candidates)).breach


def split(rng: np.random.Generator, users: int, share: float) -> tuple[Array, Array]:
    scores = rng.integers(0, 6, users)
    meets = rng.random(users) < share
    return scores[meets], scores[~meets]


@pytest.mark.parametrize(("users", "share"), CROWDS)
def test_a_good_version_is_not_ended_by_the_chance_of_who_meets_it(users: int, share: float) -> None:
    rng = np.random.default_rng(1)
    ended = sum(bool(breach(share, *split(rng, users, share))) for _ in range(1000))
    # Too few for chi-square to be exact. With 1e-4 for an empty bin it was 75, 122 and 7 of the first three.
    assert ended <= 5


@pytest.mark.parametrize(("users", "share"), CROWDS)
def test_a_version_that_scores_otherwise_is_ended_whoever_meets_it(users: int, share: float) -> None:
    rng = np.random.default_rng(2)
    found = 0
    for _ in range(200):
        candidates, others = split(rng, users, share)
        found += "scores have moved" in breach(share, np.full(len(candidates), 5), others)
    assert found >= 197


@pytest.mark.parametrize("tail", [1, 3, 100])
def test_scores_that_are_rare_in_the_live_version_are_not_missed_in_a_few_users(tail: int) -> None:
    """A hundred users, and a hundred thousand others of whom a few are in each bin but the first."""
    others = np.repeat(np.arange(20), [100_000, *[tail] * 19])
    assert not breach(0.001, np.zeros(100, int), others, np.arange(20))


def test_scores_that_are_frequent_in_the_live_version_are_missed_in_a_few_users() -> None:
    others = np.repeat(np.arange(20), [60_000, *[2_000] * 19])
    assert "scores have moved" in breach(0.001, np.zeros(100, int), others, np.arange(20))
