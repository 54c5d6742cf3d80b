"""Blocks: when one is due, where it ends, and that whoever reads the plan of a block cuts the very same one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prediction_batches import NOON, batch

from schemas.records import Outcome
from stream_workers.ingest_blocks import PLAN_SECONDS, BlockLimits, PartitionBuffer, Plan
from stream_workers.ingest_rows import LogRecord

LIMITS = BlockLimits(rows=10, size=10_000, seconds=1.0)
LOG = "predictions@id"


def buffer(plan: Plan | None = None, position: int = -1, landed: tuple[int, ...] = ()) -> PartitionBuffer:
    one = PartitionBuffer("predictions", "predictions", 0, plan, position)
    one.prepare(LOG, landed)
    return one


def record(offset: int, rows: int = 1, size: int = 10) -> LogRecord:
    return LogRecord(offset, NOON // 1000, size, batch(offset, rows))


def test_a_block_is_due_when_it_is_full_or_old_and_not_before() -> None:
    one = buffer()
    assert not one.due(LIMITS, 99.0)
    one.add(0, record(0, 9), 0.0)
    assert not one.due(LIMITS, 0.9)
    assert one.due(LIMITS, 1.0)
    assert one.due(LIMITS, 0.1, all_of_it=True)
    one.add(1, record(1, 1), 0.2)
    assert one.due(LIMITS, 0.2)
    large = buffer()
    large.add(0, record(0, 1, 20_000), 0.0)
    assert large.due(LIMITS, 0.0)


def test_a_block_stays_within_its_rows_unless_one_record_is_larger() -> None:
    one = buffer()
    for offset, rows in enumerate((4, 4, 4, 25, 1)):
        one.add(offset, record(offset, rows), 0.0)
    cut = [one.cut(LIMITS) for _ in range(4)]
    assert [(block.first, block.last) for block in cut] == [(0, 1), (2, 2), (3, 3), (4, 4)]
    assert (one.rows, one.size, one.empty) == (0, 0, True)


def test_nothing_is_cut_before_clickhouse_was_asked() -> None:
    one = PartitionBuffer("predictions", "predictions", 0)
    one.add(0, record(0, 50), 0.0)
    assert not one.due(LIMITS, 99.0, all_of_it=True)
    one.prepare(LOG, ())
    assert one.due(LIMITS, 99.0)


def test_records_that_clickhouse_has_are_left_out_and_their_offsets_are_still_passed() -> None:
    early = PartitionBuffer("predictions", "predictions", 0)
    for offset in range(3):
        early.add(offset, record(offset), 0.0)
    early.prepare(LOG, (0, 2, 3))
    for offset in (3, 4):
        early.add(offset, record(offset), 0.0)
    assert early.rows == 2
    block = early.cut(LIMITS)
    assert [one.offset for one in block.records] == [1, 4]
    assert (block.first, block.last) == (0, 4)


def test_records_that_cannot_be_read_are_passed_too() -> None:
    one = buffer()
    one.add(7, None, 0.0)
    assert one.due(LIMITS, 1.0)
    block = one.cut(LIMITS)
    assert (block.first, block.last, block.records) == (7, 7, ())


def test_a_planned_block_waits_for_its_last_record_and_ends_there() -> None:
    one = buffer(Plan(3, LOG), position=1)
    for offset in (1, 2):
        one.add(offset, record(offset, 9), 0.0)
    assert not one.due(LIMITS, 30.0, all_of_it=True)
    for offset in (3, 4):
        one.add(offset, record(offset, 9), 30.0)
    assert one.due(LIMITS, 30.0)
    block = one.cut(LIMITS)
    assert (block.name, block.replayed) == (f"{LOG}/0/1-3", True)
    following = one.cut(LIMITS)
    assert (following.first, following.last, following.replayed) == (4, 4, False)


def test_a_planned_block_keeps_its_name_when_compaction_has_taken_its_ends() -> None:
    one = buffer(Plan(5, LOG), position=1)
    for offset in (2, 4, 8):
        one.add(offset, record(offset), 0.0)
    block = one.cut(LIMITS)
    assert (block.first, block.last, len(block.records)) == (1, 5, 2)


def test_a_plan_for_records_that_never_come_is_given_up() -> None:
    one = buffer(Plan(99, LOG), position=0)
    one.add(0, record(0), 0.0)
    assert not one.due(LIMITS, PLAN_SECONDS)
    assert one.due(LIMITS, PLAN_SECONDS + 1)
    assert not one.cut(LIMITS).replayed


def test_a_plan_of_the_topics_former_life_does_not_count() -> None:
    one = buffer(Plan(99, "predictions@another"), position=0)
    one.add(0, record(0), 0.0)
    assert one.due(LIMITS, 1.0)
    assert not one.cut(LIMITS).replayed


def test_a_plan_survives_the_metadata_of_an_offset_and_nothing_else_is_taken_for_one() -> None:
    assert Plan.decode(Plan(12, LOG).encode()) == Plan(12, LOG)
    for other in (None, "", "anything", "penstock-block last=x log=y"):
        assert Plan.decode(other) is None


@given(
    st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=30),
    st.integers(1, 12),
    st.data(),
)
def test_after_a_crash_the_same_block_is_cut_whatever_the_limits_are_now(
    log: list[tuple[int, bool]], rows: int, data: st.DataObject
) -> None:
    def entries(start: int) -> list[tuple[int, LogRecord | None]]:
        return [(n, record(n, count) if good else None) for n, (count, good) in enumerate(log) if n >= start]

    first = buffer()
    for offset, one in entries(0):
        first.add(offset, one, 0.0)
    blocks = []
    while not first.empty:
        blocks.append(first.cut(BlockLimits(rows=rows)))
    assert [block.first for block in blocks] == [0, *(block.last + 1 for block in blocks[:-1])]

    lost = data.draw(st.sampled_from(blocks))
    heir = buffer(Plan.decode(lost.plan.encode()), position=lost.first)
    for offset, one in entries(lost.first):
        heir.add(offset, one, 0.0)
    again = heir.cut(BlockLimits(rows=data.draw(st.integers(1, 50))))
    assert again.name == lost.name
    assert again.records == lost.records


def test_other_records_count_as_a_row() -> None:
    assert LogRecord(0, 0, 1, Outcome("o", "u", "n", 1.0, NOON)).rows == 1
