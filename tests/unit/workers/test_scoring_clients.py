"""A worker's consumers: what an operator may set for all clients refuses none of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from penstock.settings import KafkaSettings
from stream_workers.scoring_clients import ScoringClients


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
@pytest.mark.parametrize("size", [1_000_000, 8 << 20, 16 << 20, 64 << 20])
def test_a_size_of_records_that_is_set_for_all_clients_is_taken(protocol: str, size: int) -> None:
    kafka = KafkaSettings(group_protocol=protocol, properties={"message.max.bytes": str(size)})
    clients = ScoringClients(SimpleNamespace(group="g", consumer=kafka.consumer))
    # librdkafka refuses one that fetches less at once than a record may have.
    for one in (clients.requests(), clients.bulk()):
        one.close()
