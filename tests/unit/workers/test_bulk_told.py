"""What becomes of bulk records that were run one after another and are told together."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_models import lookup
from prometheus_client import CollectorRegistry

from models.catalog import Catalog
from models.loading import LoadedModel
from models.registry import ModelStore
from schemas.codec import Codec
from schemas.codes import Code
from schemas.placement import Placement
from schemas.records import BatchSummary, ScoreBatch, ScoreReply
from schemas.tensors import from_tensor, to_tensor
from schemas.topics import Topics
from stream_workers.bulk import BulkIntake
from stream_workers.dead_letters import DeadLetters
from stream_workers.handover import Handover
from stream_workers.ledger import Epoch, Ledger
from stream_workers.ops import WorkerMetrics
from stream_workers.replies import ReplyTopics
from stream_workers.runs import Ended, Run, together
from stream_workers.work import BulkPart

CODEC, TOPICS = Codec(), Topics("")


class Message:
    """As confluent-kafka gives one."""

    def __init__(self, number: int, value: bytes) -> None:
        self._number, self._value = number, value

    def value(self) -> bytes:
        return self._value

    def topic(self) -> str:
        return TOPICS.bulk

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._number

    def __len__(self) -> int:
        return len(self._value)


class Bench:
    """A bulk intake whose device only keeps what it is given: the test runs it and tells."""

    def __init__(self, folder: Path) -> None:
        store = ModelStore(folder / "store")
        store.add_onnx("m", "1", lookup(folder / "lookup.onnx"))
        self.model = LoadedModel.load(store, "m", "1", "cpu")
        catalog = Catalog(store, lambda _name, _version: self.model, on_ready=lambda *_: None)
        catalog.preload()
        self.pieces: list[BulkPart] = []
        self.ledger, self.registry = Ledger(), CollectorRegistry()
        metrics, replies = WorkerMetrics(self.registry, "w"), ReplyTopics(lambda _topic: 8)
        place = Handover(self.ledger, replies, metrics, Placement.create(TOPICS), own=TOPICS.bulk, bulk=True)
        letters = DeadLetters(CODEC, TOPICS.dead_letters, self.ledger, metrics, worker="w", now_us=lambda: 9_000)
        self.intake = BulkIntake(
            CODEC, TOPICS, self.ledger, letters, place, catalog, self, replies, metrics,  # type: ignore[arg-type]
            worker="w", run_id="r", limits_of=lambda model: model.manifest.batching, now_us=lambda: 9_000,
        )  # fmt: skip
        self._sent = 0

    def submit(self, _key: Any, _model: Any, piece: BulkPart, *_: Any) -> None:
        """See `Device.submit`."""
        self.pieces.append(piece)

    def take(self, *indices: list[int]) -> None:
        """Poll a record of these rows each."""
        polled = []
        for one in indices:
            inputs = (to_tensor("x", np.array(one, np.int64)),)
            batch = ScoreBatch("job", self._sent, "m", 1_000, TOPICS.bulk_results, len(one), inputs=inputs)
            polled.append(Message(self._sent, CODEC.encode(batch)))
            self._sent += 1
        self.intake.take(polled)

    def tell(self, pieces: list[BulkPart], seconds: float) -> None:
        """All of them ran, one after another."""
        outputs = self.model.run([piece.inputs for piece in pieces])
        self.intake.scored(self.model, pieces, outputs, Run(0.0, seconds, 0))

    def ended(self) -> Epoch:
        """The open epoch, once each record of it has its fate."""
        epoch = self.ledger.close()
        assert epoch is not None
        return epoch


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def summaries(epoch: Epoch) -> list[BatchSummary]:
    return [CODEC.decode(BatchSummary, one.value) for one in epoch.outputs if one.topic == TOPICS.summaries]


def answers(epoch: Epoch) -> dict[str, list[float]]:
    replies = [CODEC.decode(ScoreReply, one.value) for one in epoch.outputs if one.topic == TOPICS.bulk_results]
    assert all(one.code is Code.OK for one in replies)
    return {one.request_id: from_tensor(one.outputs[0]).tolist() for one in replies}


def test_each_epoch_gets_the_answers_and_the_summary_of_its_own_records(bench: Bench) -> None:
    bench.take([0, 1], [1])
    first = bench.ended()
    bench.take([1, 1, 0])
    second = bench.ended()
    assert not bench.ledger.settled(first, 0)
    bench.tell(bench.pieces, 0.6)
    assert bench.ledger.settled(first, 0)
    assert bench.ledger.settled(second, 0)
    assert answers(first) == {"job/0": [10.0, 20.0], "job/1": [20.0]}
    assert answers(second) == {"job/2": [20.0, 20.0, 10.0]}
    told = [
        (one.batches, one.requests, one.rows, one.infer_us, one.score_sum)
        for one in (*summaries(first), *summaries(second))
    ]
    assert told == [(2, 2, 3, 300_000, 50.0), (1, 1, 3, 300_000, 50.0)]
    assert bench.intake.bytes_in_flight == 0


def test_a_record_that_was_cut_is_answered_once_with_all_of_its_rows(bench: Bench) -> None:
    bench.take([0, 1, 0, 1])
    epoch = bench.ended()
    (piece,) = bench.pieces
    first, rest = piece.split(3)
    assert rest is not None
    bench.tell([rest], 0.1)
    assert answers(epoch) == {}
    bench.tell([first], 0.1)
    assert answers(epoch) == {"job/0": [10.0, 20.0, 10.0, 20.0]}
    assert [one.rows for one in summaries(epoch)] == [1, 3]
    assert bench.ledger.settled(epoch, 0)


def test_metrics_count_runs_told_together_as_the_runs_that_they_were(bench: Bench) -> None:
    bench.take([0, 1], [1, 0], [0, 0])
    bench.tell(bench.pieces, 0.3)
    labels = {"model": "m", "version": "1"}
    found = {
        name: bench.registry.get_sample_value(f"penstock_{name}", labels)
        for name in ("batch_rows_count", "batch_rows_sum", "inference_seconds_count", "inference_seconds_sum")
    }
    assert found == {
        "batch_rows_count": 3,
        "batch_rows_sum": 6,
        "inference_seconds_count": 3,
        "inference_seconds_sum": pytest.approx(0.3),
    }


def test_runs_are_told_together_only_where_they_went_alike(bench: Bench) -> None:
    def one(piece: str, degraded: str = "", failure: str = "") -> Ended:
        return Ended(bench.model, [piece], () if failure else [{}], Run(1.0, 0.5, 2, degraded), failure)

    results = [one("a"), one("b"), one("c", "cpu"), one("d", "cpu"), one("e", failure="bad"), one("f"), one("g")]
    told = together(results)
    assert [[*each.pieces] for each in told] == [["a", "b"], ["c", "d"], ["e"], ["f", "g"]]
    assert [(each.run.seconds, each.run.padded) for each in told] == [(1.0, 4), (1.0, 4), (0.5, 2), (1.0, 4)]
    assert all(a.pieces[-1] < b.pieces[0] for a, b in pairwise(told))
