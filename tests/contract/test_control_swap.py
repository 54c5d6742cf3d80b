"""Of operators who change one control entry at once, one succeeds and the others are told, on either broker."""

from __future__ import annotations

import pytest

from penstock.brokers import LocalBroker
from producers.control import ControlTopic, Entries
from producers.errors import BrokerUnavailableError, ControlConflictError
from schemas.codec import Codec
from schemas.topics import Topics

pytestmark = pytest.mark.kafka


class Overtaken(ControlTopic):
    """Somebody else swaps the entry after this one has looked and before it writes."""

    other: ControlTopic
    expected: int | None

    def entries(self) -> Entries:
        found = super().entries()
        self.other.swap("model", "late", {"version": "theirs"}, expected=self.expected, author="them")
        return found


def test_an_entry_is_swapped_only_in_place_of_the_one_it_was_decided_on(broker: LocalBroker, topics: Topics) -> None:
    ours = ControlTopic(broker.address, Codec(), topics.control)
    first = ours.swap("model", "late", {"version": "1"}, expected=None)
    with pytest.raises(ControlConflictError, match=r'model/late is now \{"version": "1"\}'):
        ours.swap("model", "late", {"version": "2"}, expected=None)
    # An operator whose clock is behind.
    behind = ControlTopic(broker.address, Codec(), topics.control, now_us=lambda: 1)
    second = behind.swap("model", "late", {"version": "2"}, expected=first.revision)
    assert second.revision == first.revision + 1
    assert ours.entries()[("model", "late")] == second
    overtaken = Overtaken(broker.address, Codec(), topics.control)
    overtaken.other, overtaken.expected = ours, second.revision
    with pytest.raises(ControlConflictError, match="somebody else changed model/late at the same time"):
        overtaken.swap("model", "late", {"version": "ours"}, expected=second.revision)
    assert ours.entries()[("model", "late")].body == '{"version": "theirs"}'


def test_a_broker_that_is_not_there_is_one_line() -> None:
    nobody = ControlTopic("127.0.0.1:1", Codec(), "control", timeout=2.0)
    with pytest.raises(BrokerUnavailableError, match=r"no Kafka broker answers at 127\.0\.0\.1:1"):
        nobody.swap("model", "late", {"version": "1"}, expected=None)
