"""What `penstock score` does without options is what the library does without limits."""

from __future__ import annotations

from inspect import signature

from penstock.commands.score import score
from producers.bulk_run import Limits


def test_as_many_batches_are_under_way_as_in_a_job_of_the_library() -> None:
    assert signature(score).parameters["window"].default == Limits().window
