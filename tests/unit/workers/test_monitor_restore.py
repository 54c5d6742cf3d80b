"""A monitor watches on from its changelog, but for a log that was made anew or lost its end: that one counts anew."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP
from monitor_records import NOON, FixedRules, summary
from prometheus_client import CollectorRegistry

from schemas.codec import Codec
from schemas.records import BatchSummary
from schemas.topics import Topics
from stream_workers.guardrails import Recovery
from stream_workers.monitor import Monitor, MonitorConfig, MonitorError
from stream_workers.monitor_faust import FaustConfig
from stream_workers.monitor_metrics import MonitorMetrics
from stream_workers.monitor_watch import Entries, Span, Watch
from stream_workers.monitor_windows import MICRO, Series
from stream_workers.ops import Health

SPAN, SERIES = Span(20 * MICRO, 5 * MICRO), Series("m", "1")


def played(partition: int, *records: BatchSummary) -> tuple[Watch, dict[str, str]]:
    """A watch that counted these from offset 0, its breaches told, and what a changelog holds of it."""
    watch, kept = Watch(partition, FixedRules(), SPAN), dict[str, str]()
    for offset, one in enumerate(records):
        keep(kept, watch.take([(offset, one, False)], one.scored_at))
        for breach in watch.untold():
            keep(kept, watch.told(breach))
    return watch, kept


def keep(kept: dict[str, str], entries: Entries) -> None:
    for key, text in entries.items():
        if text is None:
            del kept[key]
        else:
            kept[key] = text


def restored(partition: int, kept: Mapping[str, str], seconds: float) -> Watch:
    return Watch.restored(partition, FixedRules(), SPAN, Recovery(), kept, NOON + round(seconds * MICRO))


def kinds(kept: Iterable[str]) -> list[str]:
    return sorted(json.loads(key)[1] for key in kept)


def test_a_log_that_goes_on_is_not_cut() -> None:
    watch, kept = played(0, summary(0), summary(6), summary(7))
    assert watch.cut_to(3) == {}
    assert watch.cut_to(9) == {}
    assert restored(0, kept, 7).cut_to(3) == {}
    assert Watch(0, FixedRules(), SPAN).cut_to(0) == {}, "nothing was counted and nothing is there"


def test_a_log_made_anew_counts_from_its_first_record_whatever_was_counted_before() -> None:
    _, kept = played(0, summary(0), summary(6), summary(7))
    assert kinds(kept) == ["mark", "pane", "pane"]
    watch = restored(0, kept, 8)
    keep(kept, watch.cut_to(2))
    assert kinds(kept) == ["mark"]
    assert watch.windows.total(SERIES).rows == 0
    for again in (watch, restored(0, kept, 8)):
        again.take([(0, summary(8, rows=7), False), (1, summary(9, rows=5), False)], NOON + 9 * MICRO)
        assert again.windows.total(SERIES).rows == 12
        assert again.offset == 1


def test_what_is_left_of_a_log_that_lost_its_end_counts_once_and_what_is_old_raises_nothing() -> None:
    sent = [summary(0, failed=60), summary(70), summary(100), summary(101)]
    watch, kept = played(0, *sent)
    assert watch.breaches == {}, "it is over, and told"
    watch = restored(0, kept, 102)
    keep(kept, watch.cut_to(3))
    watch.take([(offset, one, False) for offset, one in enumerate(sent[:3])], NOON + 102 * MICRO)
    assert watch.windows.total(SERIES).rows == 100
    assert watch.windows.late == 2
    assert watch.breaches == {}


def test_an_alert_that_is_out_is_followed_to_its_end() -> None:
    _, kept = played(0, summary(0, failed=60))
    assert kinds(kept) == ["breach", "mark", "pane"]
    goes_on, over = restored(0, kept, 1), restored(0, kept, 1)
    for watch in (goes_on, over):
        watch.cut_to(0)
    goes_on.take([(0, summary(1, failed=60), False)], NOON + MICRO)
    assert [one.state for one in goes_on.breaches.values()] == ["firing"]
    over.idle(NOON + 4 * MICRO)
    assert [one.state for one in over.breaches.values()] == ["resolving"]


class Kept(Monitor):
    """The monitor with lists in Faust's place. `ends`: of each partition's log; `notes`: what it did, in order."""

    def start(self, stored: Mapping[str, str], ends: Mapping[int, int]) -> Kept:
        self.ends, self.notes = ends, list[str]()
        self.told: Entries = {}
        self._table = SimpleNamespace(data={key.encode(): text.encode() for key, text in stored.items()})  # type: ignore[assignment]
        actives = {TP(Topics().summaries, one) for one in ends} | {TP("other", 9)}
        assignor = SimpleNamespace(assigned_actives=lambda: actives)
        self._app = SimpleNamespace(assignor=assignor, consumer=SimpleNamespace(log_ends=self.log_ends))  # type: ignore[assignment]
        return self

    async def log_ends(self, partitions: list[TP]) -> dict[TP, int]:
        self.notes.append("asked")
        await asyncio.sleep(0)
        return {one: self.ends[one.partition] for one in partitions}

    async def _keep(self, entries: Entries) -> None:
        await asyncio.sleep(0)
        self.told |= entries
        self.notes.append(f"kept {len(entries)}" + " while no step goes on" * self._one_step.locked())


def make(stored: Mapping[str, str], ends: Mapping[int, int], health: Health | None = None) -> Kept:
    config = MonitorConfig(FaustConfig("g", {}, 2), Topics(), SPAN, Recovery())
    metrics = MonitorMetrics(CollectorRegistry())
    monitor = Kept(
        config, Codec(), FixedRules(), SimpleNamespace(), lambda _: [], metrics, health or Health(), wall=lambda: NOON
    )  # fmt: skip
    return monitor.start(stored, ends)


def test_partitions_are_cut_to_their_logs_before_anything_counts(caplog: pytest.LogCaptureFixture) -> None:
    (_, kept), (_, other) = played(0, summary(0), summary(1)), played(1, summary(0), summary(1))
    monitor = make({**kept, **other}, {0: 2, 1: 1})

    async def main() -> None:
        with caplog.at_level(logging.WARNING):
            await monitor._assigned()
        assert monitor.notes == ["asked", "kept 2 while no step goes on"]
        value = Codec().encode(summary(1, rows=7))
        messages = [SimpleNamespace(topic="t", partition=one, offset=0, value=value) for one in (0, 1)]
        stream = SimpleNamespace(ack=lambda _: asyncio.sleep(0))
        await monitor.step(stream, [SimpleNamespace(message=one) for one in messages])

    asyncio.run(main())
    rows = {partition: watch.windows.total(SERIES).rows for partition, watch in monitor._watches.items()}
    assert rows == {0: 200, 1: 7}
    assert [record.getMessage() for record in caplog.records] == [
        "batch.summaries[1] ends at offset 1, but 1 was counted: it was deleted or has lost its end. Its windows are "
        "dropped, and what it holds now is counted"
    ]


def test_partitions_shared_out_again_meanwhile_are_not_watched() -> None:
    _, kept = played(0, summary(0))
    health = Health()
    monitor = make(kept, {0: 0}, health)

    async def main() -> None:
        assigned = asyncio.ensure_future(monitor._assigned())
        await asyncio.sleep(0)
        await monitor._revoked()
        await assigned

    asyncio.run(main())
    assert (monitor._watches, monitor.told) == ({}, {})
    assert health.ready() == (False, {"kafka": "partitions are being shared out"})


def test_a_kafka_that_does_not_say_where_a_log_ends_is_an_error_in_one_line() -> None:
    monitor = make({}, {0: 0})

    async def away(_: Any) -> dict[TP, int]:
        raise ConnectionError("away")

    monitor._app.consumer.log_ends = away  # type: ignore[attr-defined]
    with pytest.raises(MonitorError, match=r"Kafka does not say where batch\.summaries ends: ConnectionError: away"):
        asyncio.run(monitor._assigned())
