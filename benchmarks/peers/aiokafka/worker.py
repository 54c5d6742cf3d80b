"""The same straight loop on asyncio with aiokafka.

Settings after aiokafka's "Consumer client" (`getmany`, manual commit, reading transactional messages) and "Producer
client" (message buffering with `linger_ms`, idempotent produce): a batch from all partitions, its replies sent
without waiting for each, then awaited together before the offsets are committed.
"""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from scoring import Scorer, Settings

BATCH = 1000


async def main() -> None:
    """Score until killed."""
    settings = Settings.given()
    scorer = Scorer(settings)
    consumer = AIOKafkaConsumer(
        settings.requests,
        bootstrap_servers=settings.bootstrap,
        group_id=settings.group,
        auto_offset_reset="latest",
        enable_auto_commit=False,
        isolation_level="read_committed",
        session_timeout_ms=settings.session_timeout_ms,
        heartbeat_interval_ms=settings.session_timeout_ms // 3,
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap, enable_idempotence=True, linger_ms=5, max_batch_size=1 << 18
    )
    async with consumer, producer:
        while True:
            found = await consumer.getmany(timeout_ms=50, max_records=BATCH)
            values = [record.value for records in found.values() for record in records]
            if not values:
                continue
            sent = [
                await producer.send(reply.topic, reply.value, partition=reply.partition)
                for reply in scorer.score(values)
            ]
            await asyncio.gather(*sent)
            await consumer.commit()


if __name__ == "__main__":
    asyncio.run(main())
