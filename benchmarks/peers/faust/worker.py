"""A Faust agent that takes records in batches and scores them with ONNX Runtime.

Settings after faust-streaming's "Streams - Infinite Data Structures" (`take`), "Agents" and "Configuration
Reference": values as bytes, no leader topics, no tables, web server off, offsets committed every half second, a
producer that lingers so that replies go out in batches. `take` acknowledges when the next batch is asked for, so
the replies of a batch are awaited before that. Faust reads uncommitted records unless it writes in transactions
itself.
"""

from __future__ import annotations

import asyncio
import os

import faust
from scoring import Scorer, Settings

BATCH = 1000
WITHIN_SECONDS = 0.05

settings = Settings.given()
scorer = Scorer(settings)
app = faust.App(
    settings.group,
    broker=f"kafka://{settings.bootstrap}",
    datadir=os.path.join(os.getcwd(), "faust"),
    store="memory://",
    web_enabled=False,
    topic_disable_leader=True,
    topic_allow_declare=False,
    consumer_auto_offset_reset="latest",
    broker_session_timeout=settings.session_timeout_ms / 1000,
    broker_commit_interval=0.5,
    producer_linger=0.005,
    producer_max_batch_size=1 << 18,
    producer_acks=-1,
)
requests = app.topic(settings.requests, key_type=bytes, value_type=bytes, value_serializer="raw")
replies = app.topic(settings.replies, value_type=bytes, value_serializer="raw")


@app.agent(requests)
async def score(stream: faust.StreamT[bytes]) -> None:
    """Score until stopped."""
    async for values in stream.take(BATCH, within=WITHIN_SECONDS):
        sent = [await replies.send(value=reply.value, partition=reply.partition) for reply in scorer.score(values)]
        await asyncio.gather(*sent)


if __name__ == "__main__":
    faust.Worker(app, loglevel="WARN").execute_from_commandline()
