"""A Bytewax dataflow: Kafka source, `flat_map_batch` around the model, Kafka sink.

Settings after Bytewax's "Performance" (`batch_size` of the source, `flat_map_batch` for work that is cheaper in
batches) and "Kafka": one worker, read from the end of the topic. Bytewax keeps its place in a recovery store
of its own and commits no offsets to Kafka, so its clock ends with the last reply. Its sink takes no partition: a
reply's follows its key.
"""

from __future__ import annotations

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.run import cli_main
from confluent_kafka import OFFSET_END
from scoring import Scorer, Settings

BATCH = 1000


def dataflow(settings: Settings) -> Dataflow:
    """From requests to replies."""
    scorer = Scorer(settings)

    def score(messages: list) -> list:
        if not messages:
            return []
        answers = scorer.score([message.value for message in messages])
        return [
            KafkaSinkMessage(message.key, answer.value, answer.topic)
            for message, answer in zip(messages, answers, strict=True)
        ]

    flow = Dataflow("scoring")
    brokers = [settings.bootstrap]
    source = KafkaSource(
        brokers,
        [settings.requests],
        starting_offset=OFFSET_END,
        batch_size=BATCH,
        add_config={"isolation.level": "read_committed"},
    )
    records = op.input("requests", flow, source)
    scored = op.flat_map_batch("score", records, score)
    sink = KafkaSink(
        brokers, settings.replies, add_config={"enable.idempotence": "true", "batch.num.messages": "10000"}
    )
    op.output("replies", scored, sink)
    return flow


if __name__ == "__main__":
    cli_main(dataflow(Settings.given()))
