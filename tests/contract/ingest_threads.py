"""Runs ingest in a thread of the test, and waits for what it does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ingest_kafka import client, consumer

from schemas.codec import Codec
from schemas.topics import Topics
from stream_workers.ingest import Ingest, KafkaConfigs
from stream_workers.ingest_blocks import BlockLimits
from stream_workers.ingest_sink import Sink
from stream_workers.ops_health import Health


@contextmanager
def ingesting(
    address: str, topics: Topics, sink: Sink, *, group: str = "", rows: int = 50, health: Health | None = None
) -> Iterator[threading.Thread]:
    """An ingest that runs inside the block; what it raised is raised at the end."""
    stop, failures = threading.Event(), list[BaseException]()
    kafka = KafkaConfigs(client(address), consumer(address, group or f"{topics.prefix}ingest"), client(address))
    limits = BlockLimits(rows=rows, seconds=0.2)
    one = Ingest(kafka, Codec(), topics, sink, limits=limits, health=health or Health())

    def run() -> None:
        try:
            one.run(stop)
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    if failures:
        raise failures[0]
