"""What the prediction log says of a worker's batches, and the simulation that is given the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prediction_batches import NOON, batch

from models.batching import DEFAULT_LIMITS
from models.simulation import worker_policy
from penstock.bench.planning import CURVE, as_read
from penstock.bench.worked import Batch, batches_of, within
from schemas.records import MicroBatch


def ran(number: int, infer_us: int, rows: int = 3, at: int = NOON) -> MicroBatch:
    return MicroBatch(f"b{number}", at, rows, infer_us)


def test_a_run_that_was_logged_in_two_records_is_one_batch() -> None:
    log = [
        replace(batch(1, 2), batches=(ran(1, 60_000, 2, NOON + 9),)),
        replace(batch(2, 7), batches=(ran(2, 50_000, 3), ran(3, 60_000, 4, NOON + 9))),
    ]
    found = batches_of(log)
    assert [(one.ended, one.seconds, len(one.read)) for one in found] == [
        (NOON / 1e6, 0.05, 3),
        ((NOON + 9) / 1e6, 0.06, 6),
    ]
    assert found[0].read == ((NOON - 5_000) / 1e6,) * 3


def test_two_workers_that_end_at_once_ran_two_batches_and_what_did_not_run_is_left_out() -> None:
    first, second, refused = (replace(batch(n), batches=(ran(n, us),)) for n, us in ((1, 50_000), (2, 50_000), (3, 0)))
    found = batches_of([first, replace(second, worker="w2"), refused])
    assert [one.worker for one in found] == ["w1", "w2"]


def test_batches_are_cut_into_rounds_by_their_ends() -> None:
    batches = [Batch("w", at, 0.05, (at - 0.06,)) for at in (1.0, 2.0, 3.0)]
    assert within(batches, 1.5, 2.5) == batches[1:2]


NONE = [0.0]


def lived(read: list[float], late: list[float], pauses: list[float] = NONE) -> list[Batch]:
    """A device that is as it is simulated, but by turns so late with its answers, and so long in beginning again."""
    policy = worker_policy(DEFAULT_LIMITS, CURVE)
    batches: list[Batch] = []
    at, free = 0, 0.0
    while at < len(read):
        began = max(free, read[at])
        after = at + min(sum(one <= began for one in read[at:]), policy.max_rows())
        seconds = CURVE.seconds(after - at) + late[len(batches) % len(late)]
        policy.observe_batch(after - at, seconds)
        batches.append(Batch("w", began + seconds, seconds, tuple(read[at:after])))
        at, free = after, began + seconds + pauses[(len(batches) - 1) % len(pauses)]
    return batches


# Even, in lumps as far apart as batches are long, and with a standstill in the midst of them.
EVEN = [n / 100 for n in range(300)]
LUMPS = [n // 5 * 0.053 for n in range(300)]
STALLED = [at if at < 1 else max(at, 2.0) for at in EVEN]


@pytest.mark.parametrize("read", [EVEN, LUMPS, STALLED])
@pytest.mark.parametrize("late", [[0.0], [0.02], [0.001, 0.3, *[0.002] * 15]])
def test_however_requests_come_and_however_late_a_sleep_ends_the_error_is_the_simulations_own(
    read: list[float], late: list[float]
) -> None:
    mean, rows = as_read([lived(read, late)] * 3)
    assert mean.off == pytest.approx(0, abs=0.01)
    assert rows.off == pytest.approx(0, abs=0.01)


def test_a_worker_that_lets_work_wait_is_not_as_it_was_simulated() -> None:
    mean, rows = as_read([lived(EVEN, [0.0], [0.03])] * 3)
    assert mean.off < -0.15
    assert rows.off < -0.15
    assert not mean.to_json()["within"]


def test_a_pause_that_is_longer_than_the_others_is_the_machines_and_not_the_workers() -> None:
    mean, rows = as_read([lived(EVEN, [0.0], [*NONE * 6, 0.4])] * 3)
    assert max(mean.measured.values) > 150
    assert mean.off == pytest.approx(0, abs=0.05)
    assert rows.off == pytest.approx(0, abs=0.05)


def test_the_median_of_the_rounds_errors_is_told_not_the_error_of_the_medians() -> None:
    slow = lived(EVEN, [0.0], [0.2])
    mean, _ = as_read([lived(EVEN, [0.0]), slow, lived(LUMPS, [0.02])])
    assert mean.off == pytest.approx(0, abs=0.01)
    assert max(mean.measured.values) > 1.5 * min(mean.measured.values)
