"""Ingest from a broker into chDB: every table is filled, once, whatever is read again and whoever joins or leaves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from chdb_home import fresh_warehouse
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from ingest_kafka import CODEC, client, committed, create_topics, send
from ingest_threads import ingesting
from prediction_batches import NOON, batch
from waiting import until

from analytics.migrate import migrate
from analytics.warehouse import Warehouse, WarehouseUnavailableError
from penstock.brokers import EmbeddedBroker, LocalBroker
from schemas.records import BatchSummary, Control, Outcome
from schemas.topics import Topics
from stream_workers.ingest_blocks import Block
from stream_workers.ingest_sink import WarehouseSink
from stream_workers.ops_health import Health

pytestmark = [pytest.mark.kafka]


@pytest.fixture
def warehouse() -> Iterator[Warehouse]:
    with fresh_warehouse() as fresh:
        migrate(fresh)
        yield fresh


def _is(wanted: object, function: Callable[..., object], *arguments: object) -> bool:
    return function(*arguments) == wanted


def count(warehouse: Warehouse, table: str = "predictions") -> int:
    return int(warehouse.query(f"SELECT count() FROM {table}").scalar())  # noqa: S608


def test_each_topic_fills_its_table_and_bad_records_are_dead_letters(
    broker: LocalBroker, topics: Topics, warehouse: Warehouse
) -> None:
    good = batch(1)
    short = dataclasses.replace(good, scores=b"12345678")
    send(broker.address, topics.predictions, [good, b"no avro at all", short, CODEC.encode(batch(2))[:40], batch(3)])
    send(broker.address, topics.summaries, [BatchSummary("b1", "w", "cpu", "m", "1", "", "", "t", NOON, 3, 3)])
    send(broker.address, topics.outcomes, [Outcome("o1", "ü0", "late", 1.0, NOON, "r1-0")] * 2)
    send(broker.address, topics.control, [Control("experiment", "exp", 1, json.dumps({"a": 1}), NOON)], 1)
    producer = Producer(client(broker.address))
    producer.produce(topics.control, None, b"experiment/exp", partition=0)
    assert producer.flush(10) == 0

    with ingesting(broker.address, topics, WarehouseSink(warehouse.another())):
        until(lambda: count(warehouse) == 6, 40, "the good batches did not arrive")
        until(lambda: count(warehouse, "dead_letters FINAL") == 3, 20, "the bad ones are not in dead_letters")
        until(lambda: count(warehouse, "control_history") == 2, 20, "control did not arrive")
        until(lambda: count(warehouse, "outcomes FINAL") == 1, 20, "a repeated outcome is not the same outcome")
        until(lambda: count(warehouse, "batch_summaries") == 1, 20, "the summary did not arrive")

    letters = warehouse.query("SELECT reason, partition, offset, value FROM dead_letters FINAL ORDER BY partition")
    assert [row[:3] for row in letters.rows] == [("NOT_AVRO", 1, 0), ("INVALID", 2, 0), ("TRUNCATED", 3, 0)]
    assert warehouse.query("SELECT value = 'no avro at all' FROM dead_letters FINAL WHERE partition = 1").scalar() == 1
    detail = warehouse.query("SELECT detail FROM dead_letters FINAL WHERE reason = 'INVALID'").scalar()
    assert "PredictionBatch.scores has 8 bytes where 3 rows take 24" in detail
    control = warehouse.query("SELECT kind, name, deleted FROM control_history ORDER BY log_offset")
    assert control.rows == (("experiment", "exp", False), ("experiment", "exp", True))
    labelled = warehouse.query("SELECT request_id, user_id, outcome, value FROM labelled_predictions")
    assert labelled.rows == (("r1-0", "ü0", "late", 1.0),)


def test_reading_the_whole_log_again_changes_nothing(broker: LocalBroker, topics: Topics, warehouse: Warehouse) -> None:
    send(broker.address, topics.predictions, [batch(number) for number in range(40)])
    everything = dict.fromkeys(range(4), 10)
    for group, rows in (("first", 7), ("second", 1000)):
        name = f"{topics.prefix}{group}"
        through = partial(_is, everything, committed, broker.address, name, topics.predictions)
        with ingesting(broker.address, topics, WarehouseSink(warehouse.another()), group=name, rows=rows):
            until(through, 40, f"the {group} group did not get through")
        assert count(warehouse) == 120
    assert warehouse.query("SELECT sum(rows) FROM predictions_per_minute").scalar() == 120


def test_members_that_join_and_leave_lose_nothing_and_double_nothing(
    broker: LocalBroker, topics: Topics, warehouse: Warehouse
) -> None:
    sink = WarehouseSink(warehouse.another())
    with ingesting(broker.address, topics, sink, rows=20):
        send(broker.address, topics.predictions, [batch(number) for number in range(100)])
        until(lambda: count(warehouse) > 0, 40, "nothing arrived")
        with ingesting(broker.address, topics, WarehouseSink(warehouse.another()), rows=20):
            for start in range(100, 500, 50):
                send(broker.address, topics.predictions, [batch(number) for number in range(start, start + 50)])
            until(lambda: count(warehouse) >= 1500, 60, "the two did not get through")
        send(broker.address, topics.predictions, [batch(number) for number in range(500, 520)])
        until(lambda: count(warehouse) >= 1560, 60, "the one that stayed did not take over")
    assert count(warehouse) == 1560
    assert warehouse.query("SELECT sum(duplicated_rows), count() FROM prediction_fates").rows == ((0, 1560),)


class AwaySink(WarehouseSink):
    """One whose ClickHouse can be away."""

    def __init__(self, warehouse: Warehouse) -> None:
        super().__init__(warehouse)
        self.is_away = False

    def write(self, block: Block, *, suspect: bool) -> None:
        if self.is_away:
            raise WarehouseUnavailableError("it is away")
        super().write(block, suspect=suspect)


def test_partitions_that_were_given_back_while_paused_are_read_when_they_come_back(
    broker: LocalBroker, topics: Topics, warehouse: Warehouse
) -> None:
    sink, health = AwaySink(warehouse.another()), Health()
    with ingesting(broker.address, topics, sink, rows=20, health=health):
        send(broker.address, topics.predictions, [batch(number) for number in range(40)])
        until(lambda: count(warehouse) == 120, 40, "nothing arrived")
        sink.is_away = True
        send(broker.address, topics.predictions, [batch(number) for number in range(40, 80)])
        until(lambda: not health.ready()[0], 20, "nothing is paused")
        with ingesting(broker.address, topics, WarehouseSink(warehouse.another()), rows=20):
            until(lambda: count(warehouse) > 120, 60, "the second took nothing over")
            sink.is_away = False
            until(lambda: count(warehouse) == 240, 60, "the two did not get through")
            until(lambda: health.ready()[0], 20, "the first is still paused")
        send(broker.address, topics.predictions, [batch(number) for number in range(80, 120)])
        until(lambda: count(warehouse) >= 360, 60, "what came back is not read")
    assert warehouse.query("SELECT sum(duplicated_rows), count() FROM prediction_fates").rows == ((0, 360),)


def test_a_topic_made_anew_is_another_log(embedded_broker: EmbeddedBroker, warehouse: Warehouse) -> None:
    topics = Topics("anew.")
    admin = AdminClient({"bootstrap.servers": embedded_broker.address, "log_level": 0})
    for life in range(2):
        create_topics(embedded_broker.address, topics)
        send(embedded_broker.address, topics.predictions, [batch(8 * life + number) for number in range(8)])
        sink = WarehouseSink(warehouse.another())
        with ingesting(embedded_broker.address, topics, sink, group=f"anew{life}"):
            until(partial(_is, 24 * (life + 1), count, warehouse), 40, f"life {life} did not arrive")
        for deleted in admin.delete_topics(list(dataclasses.asdict(topics).values())[1:]).values():
            deleted.result(10)
    assert count(warehouse) == 48
