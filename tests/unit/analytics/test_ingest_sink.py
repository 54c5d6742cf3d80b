"""The sink: whatever had arrived before and however often a block is sent, each row is there once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from prediction_batches import DAY, NOON, batch
from waiting import until

from analytics.warehouse import Warehouse, WarehouseError, WarehouseUnavailableError
from schemas.records import Outcome
from stream_workers.ingest_blocks import Block
from stream_workers.ingest_rows import LogRecord, build
from stream_workers.ingest_sink import WarehouseSink, Writer, by_day


def block(first: int = 0, count: int = 6, table: str = "predictions") -> Block:
    """Every other batch is of the next day."""
    records = tuple(
        LogRecord(n, NOON // 1000, 100, batch(n, 2, scored_at=NOON + n % 2 * DAY)) for n in range(first, first + count)
    )
    return Block(table, table, 0, f"{table}@id", first, first + count - 1, records)


def counts(warehouse: Warehouse) -> tuple[int, int, int]:
    (row,) = warehouse.query(
        "SELECT count(), uniqExact(request_id), (SELECT sum(rows) FROM predictions_per_minute) FROM predictions"
    ).rows
    return row[0], row[1], row[2]


def test_a_block_sent_again_changes_nothing(warehouse: Warehouse) -> None:
    sink = WarehouseSink(warehouse)
    for suspect in (False, False, True):
        sink.write(block(), suspect=suspect)
        assert counts(warehouse) == (12, 12, 12)


def test_a_block_of_which_one_day_arrived_is_completed(warehouse: Warehouse) -> None:
    one = block()
    day, piece = by_day(build(one.records, one.log, 0), "scored_at")[0]
    warehouse.insert("predictions", piece, f"{one.name}/{day}")
    WarehouseSink(warehouse).write(one, suspect=True)
    assert counts(warehouse) == (12, 12, 12)


def test_a_token_without_its_rows_does_not_lose_them(warehouse: Warehouse) -> None:
    """What a kill between ClickHouse's note of the token and the part's appearance leaves."""
    one = block()
    sink = WarehouseSink(warehouse)
    sink.write(one, suspect=False)
    warehouse.command("ALTER TABLE predictions DELETE WHERE log_offset IN (0, 2, 4)", {"mutations_sync": "1"})
    assert counts(warehouse) == (6, 6, 6)
    sink.write(one, suspect=True)
    assert counts(warehouse) == (12, 12, 12)


def test_a_look_at_what_landed_gets_nothing_of_a_query_that_failed_before_it(warehouse: Warehouse) -> None:
    sink = WarehouseSink(warehouse)
    sink.write(block(), suspect=False)
    for _ in range(3):
        # Offsets, in the very form of the look's answer, of which one block is written before it fails.
        with pytest.raises(WarehouseError, match="FUNCTION_THROW_IF"):
            warehouse.query("SELECT toInt64(number + throwIf(number = 300000)) AS log_offset FROM numbers(1000000)")
        assert sink.landed("predictions", "predictions@id", 0, 0) == [0, 1, 2, 3, 4, 5]
        assert sink.landed("predictions", "predictions@id", 0, 6) == []


def test_what_has_landed_is_known_by_offset_log_and_partition(warehouse: Warehouse) -> None:
    sink = WarehouseSink(warehouse)
    sink.write(block(3, 4), suspect=False)
    assert sink.landed("predictions", "predictions@id", 0, 0) == [3, 4, 5, 6]
    assert sink.landed("predictions", "predictions@id", 0, 4, 5) == [4, 5]
    assert sink.landed("predictions", "predictions@id", 1, 0) == []
    assert sink.landed("predictions", "predictions@other", 0, 0) == []


def test_a_repeated_outcome_does_not_upset_a_suspect_block(warehouse: Warehouse) -> None:
    records = tuple(LogRecord(n, NOON // 1000, 10, Outcome("same", "u", "late", 1.0, NOON)) for n in range(3))
    WarehouseSink(warehouse).write(Block("outcomes", "o", 0, "o@id", 0, 2, records), suspect=True)
    assert warehouse.query("SELECT count() FROM outcomes FINAL").scalar() == 1


def test_the_roll_up_is_answered_from_the_projection_and_equals_its_rows(warehouse: Warehouse) -> None:
    WarehouseSink(warehouse).write(block(count=20), suspect=False)
    sql = """SELECT minute, variant, code, rows, latency_sum, scores, score_sum, latency_quantiles
             FROM predictions_per_minute ORDER BY ALL SETTINGS """
    rolled = warehouse.query(sql + "force_optimize_projection = 1").rows
    assert rolled == warehouse.query(sql + "optimize_use_projections = 0").rows
    assert sum(row[3] for row in rolled) == 40
    assert {tuple(row[7]) for row in rolled} == {(7000.0, 7000.0, 7000.0)}


class FailingSink:
    """Fails so many times, then works; or always."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.writes: list[tuple[str, bool]] = []

    def landed(self, table: str, log: str, partition: int, first: int, last: int | None = None) -> Sequence[int]:
        del table, log, partition, first, last
        return []

    def write(self, block: Block, *, suspect: bool) -> None:
        self.writes.append((block.name, suspect))
        if self.failures:
            self.failures -= 1
            raise WarehouseUnavailableError("it is away")


class Reports:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, int]] = []

    def block(self, table: str, rows: int, seconds: float) -> None:
        del seconds
        self.events.append(("block", table, rows))

    def failed(self, table: str) -> None:
        self.events.append(("failed", table, 0))


def test_a_write_that_fails_is_repeated_as_suspect_until_it_works() -> None:
    sink, reports = FailingSink(2), Reports()
    writer = Writer(sink, reports, first_pause=0.001)
    job = writer.submit([block()])
    assert job.future is not None
    job.future.result(10)
    writer.stop()
    assert [suspect for _, suspect in sink.writes] == [False, True, True]
    assert [event[0] for event in reports.events] == ["failed", "failed", "block"]
    assert reports.events[-1] == ("block", "predictions", 12)
    assert (job.written, writer.trouble) == ([block()], "")


@pytest.mark.parametrize("how", ["drop", "stop"])
def test_what_nobody_wants_any_more_is_given_up(how: str) -> None:
    sink = FailingSink(10**9)
    writer = Writer(sink, Reports(), first_pause=0.001, longest_pause=0.001)
    job = writer.submit([block()])
    until(lambda: writer.trouble == "it is away", 10, "the trouble is not told")
    if how == "drop":
        job.dropped.add(("predictions", 0))
    else:
        writer.stop()
    assert job.future is not None
    job.future.result(10)
    writer.stop()
    # Ingest reads nothing while there is trouble, so with nothing left to write it would never end.
    assert (job.written, writer.trouble) == ([], "")
