"""A Quix Streams application: `apply` scores each record, `to_topic` sends its reply.

Settings after Quix Streams' "Configuration", "Checkpointing" and "Serialization and Deserialization": values as
bytes, at least once, a checkpoint every half second, a lingering idempotent producer. Quix Streams hands records to
a function one by one; its batches (`BatchingSink`) are for writing to other systems and its count windows keep
state, so ONNX Runtime is asked for one row at a time, as its "Processing & Transforming Data" page has functions
applied. A reply's partition follows its key: `to_topic` takes no partition.
"""

from __future__ import annotations

import os

from quixstreams import Application
from scoring import Scorer, Settings


def main() -> None:
    """Score until killed."""
    settings = Settings.given()
    scorer = Scorer(settings)
    app = Application(
        broker_address=settings.bootstrap,
        consumer_group=settings.group,
        auto_offset_reset="latest",
        auto_create_topics=False,
        use_changelog_topics=False,
        commit_interval=0.5,
        consumer_poll_timeout=0.05,
        state_dir=os.path.join(os.getcwd(), "quixstreams"),
        loglevel="WARNING",
        consumer_extra_config={
            "isolation.level": "read_committed",
            "session.timeout.ms": settings.session_timeout_ms,
        },
        producer_extra_config={
            "enable.idempotence": True,
            "linger.ms": 5,
            "batch.num.messages": 10_000,
            "queue.buffering.max.messages": 1_000_000,
        },
    )
    requests = app.topic(settings.requests, key_deserializer="bytes", value_deserializer="bytes")
    replies = app.topic(settings.replies, key_serializer="bytes", value_serializer="bytes")
    frame = app.dataframe(requests)
    frame = frame.apply(lambda value: scorer.score([value])[0].value)
    frame.to_topic(replies)
    app.run()


if __name__ == "__main__":
    main()
