"""Batches are made of whole units in the order they came, and a failing batch is halved until the culprit is alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worker_pieces import bulk_part, requests

from models.batching import BatchLimits, BatchPolicy
from models.loading import LoadedModel
from models.registry import ModelStore
from schemas.codes import Code
from schemas.tensors import Array
from stream_workers.device import IDLE_SECONDS, Device
from stream_workers.lanes import GROUP, Lane, LaneKey, Share, aligned
from stream_workers.runs import Run
from stream_workers.work import ALIGNED, BulkPart, Requests

BULK = LaneKey("m", "1", bulk=True)


@cache
def zoo(version: str) -> LoadedModel:
    return LoadedModel.load(ModelStore("models/zoo"), "flight-delay", version, "cpu")


def lane(key: LaneKey = BULK) -> Lane:
    return Lane(key, None, BatchPolicy(BatchLimits()), None)  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=6),
    caps=st.lists(st.integers(1, 30), min_size=1, max_size=6),
)
def test_batches_hold_whole_requests_in_order_and_no_more_rows_than_asked_for(
    pieces: list[tuple[int, int]], caps: list[int]
) -> None:
    queue = lane(LaneKey("m", "1"))
    number = 0
    each: dict[int, int] = {}
    for count, rows_each in pieces:
        own = range(number, number + count)
        each |= dict.fromkeys(own, rows_each)
        queue.put(requests(own, rows_each), 0.0)
        number += count
    seen: list[int] = []
    turn = 0
    while queue.rows:
        cap = caps[turn % len(caps)]
        turn += 1
        taken = queue.take(cap)
        rows = 0
        for piece in taken:
            assert isinstance(piece, Requests)
            units = [int(name[1:]) for name in piece.ids]
            assert piece.inputs["x"].tolist() == [unit for unit in units for _ in range(each[unit])]
            assert piece.offsets.tolist() == units
            seen += units
            rows += piece.rows
        assert taken
        assert rows <= cap or sum(piece.count for piece in taken) == 1
    assert seen == list(range(number))
    assert not queue.queue


@settings(max_examples=200, deadline=None)
@given(rows=st.integers(1, 50), caps=st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_a_bulk_batch_is_cut_into_its_own_rows_each_once(rows: int, caps: list[int]) -> None:
    queue = lane()
    queue.put(bulk_part(rows), 0.0)
    seen: list[int] = []
    while queue.rows:
        cap = caps[len(seen) % len(caps)]
        taken = queue.take(cap)
        assert sum(piece.rows for piece in taken) <= cap
        for piece in taken:
            assert isinstance(piece, BulkPart)
            assert piece.inputs["x"].tolist() == piece.where.tolist()
            seen += piece.where.tolist()
    assert seen == list(range(rows))


@settings(max_examples=200, deadline=None)
@given(records=st.lists(st.integers(1, 60), min_size=1, max_size=5), wanted=st.lists(st.integers(1, 40), min_size=1))
def test_a_bulk_run_is_of_one_record_and_begins_at_an_aligned_row(records: list[int], wanted: list[int]) -> None:
    queue = lane()
    parts = [bulk_part(rows) for rows in records]
    for part in parts:
        queue.put(part, 0.0)
    seen = {id(part.batch): 0 for part in parts}
    turn = 0
    while queue.rows:
        most = aligned(wanted[turn % len(wanted)], 4096)
        group = queue.take_records(most)
        turn += 1
        assert 1 <= len(group) <= GROUP
        assert len({id(taken.batch) for taken in group if isinstance(taken, BulkPart)}) == len(group)
        for taken in group:
            assert isinstance(taken, BulkPart)
            assert taken.rows <= most
            assert taken.where[0] % ALIGNED == 0
            assert taken.where[0] == seen[id(taken.batch)]
            seen[id(taken.batch)] += taken.rows
    assert [*seen.values()] == records


def test_pieces_of_a_shadow_are_taken_one_at_a_time() -> None:
    queue = lane(LaneKey("m", "2", bulk=True, shadow=True))
    for number in range(3):
        queue.put(requests([number]), 0.0)
    taken = [queue.take_records(8) for _ in range(3)]
    assert [[piece.offsets.tolist() for piece in one] for one in taken] == [[[0]], [[1]], [[2]]]


def test_slices_are_as_large_as_allowed_where_that_is_less_than_the_alignment() -> None:
    assert [aligned(rows, 5) for rows in (1, 5, 100)] == [5, 5, 5]
    assert [aligned(rows, 100) for rows in (1, 8, 9, 31, 96)] == [8, 8, 8, 24, 96]


@settings(max_examples=25, deadline=None)
@given(data=st.data(), version=st.sampled_from(["1", "2"]))
def test_rows_of_the_zoo_s_models_are_scored_alike_in_any_aligned_slice(data: st.DataObject, version: str) -> None:
    model = zoo(version)
    begin = data.draw(st.integers(0, 100)) * ALIGNED
    rows = data.draw(st.integers(1, 1000))
    inputs = {one.name: one.sample(1200) for one in model.signature.inputs}
    rng = np.random.default_rng(rows)
    noise = {
        name: array + rng.random(array.shape).astype(array.dtype)
        for name, array in inputs.items()
        if array.dtype.kind == "f"
    }
    (whole,) = model.run([{**inputs, **noise}])
    # Up to the end of the record, or to an aligned row.
    end = begin + rows // ALIGNED * ALIGNED if data.draw(st.booleans()) else 1200
    if end > begin:
        (part,) = model.run([{name: array[begin:end] for name, array in {**inputs, **noise}.items()}])
        assert all(np.array_equal(part[name], whole[name][begin:end]) for name in whole)


@given(count=st.integers(2, 20), rows_each=st.integers(1, 4))
def test_halves_are_both_smaller_and_together_the_whole(count: int, rows_each: int) -> None:
    piece = requests(range(count), rows_each)
    first, second = piece.halve()
    assert first.count
    assert second.count
    assert [*first.ids, *second.ids] == [*piece.ids]
    assert [*first.inputs["x"], *second.inputs["x"]] == [*piece.inputs["x"]]
    part = bulk_part(count)
    assert [*part.halve()[0].where, *part.halve()[1].where] == list(range(count))


@settings(max_examples=200, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2)), min_size=1, max_size=8))
def test_pieces_are_joined_where_one_can_stand_for_them_and_nothing_of_them_is_lost(
    sizes: list[tuple[int, int]],
) -> None:
    pieces, number = [], 0
    for count, kind in sizes:
        own = range(number, number + count)
        apart: list[dict[str, Any]] = [
            {},
            {"reply_topic": "other"},
            {"inputs": {"x": np.array(own, np.float32)}, "headers": [[("n", bytes([n]))] for n in own]},
        ]
        pieces.append(requests(own, taken=np.full(count, float(number)), **apart[kind]))
        number += count
    joined = pieces[0].joined(pieces[1:])
    kinds = [kind for _, kind in sizes]
    assert len(joined) == 1 + sum(a != b for a, b in pairwise(kinds))
    for name in ("offsets", "taken", "ids", "users", "keys", "sent_at", "received_at", "reply_partitions", "deadlines"):
        kept = [value for piece in joined for value in getattr(piece, name)]
        assert kept == [value for piece in pieces for value in getattr(piece, name)], name
    for one in joined:
        assert one.received == min(one.taken)
        assert one.inputs["x"].tolist() == one.offsets.tolist()
        assert one.headers is None or one.headers == [[("n", bytes([n]))] for n in one.offsets.tolist()]


def test_the_next_run_begins_while_the_last_one_is_published(model: LoadedModel) -> None:
    began = [threading.Event(), threading.Event()]

    def begin(piece: Any) -> Any:
        began[int(piece.offsets[0])].set()
        return piece

    class Slow(Record):
        def scored(self, model: LoadedModel, pieces: Any, outputs: Any, run: Run) -> None:
            # The first is published only once the second run has begun; one after the other this raises.
            if not began[1].wait(20):
                raise TimeoutError
            super().scored(model, pieces, outputs, run)

    sink, device = Slow(2, late=begin), Device()
    for n in range(2):
        device.submit(
            LaneKey("m", "1"), model, requests([n], inputs={"x": np.array([n])}), sink, lambda: BatchLimits(max_rows=1)
        )
    device.start(1)
    assert sink.done.wait(20)
    device.stop()
    assert device.failure is None
    assert sink.values == {0: 10.0, 1: 20.0}


def test_bulk_records_are_run_one_by_one_and_told_together_unless_somebody_waits_for_an_answer(
    model: LoadedModel,
) -> None:
    told: list[list[int]] = []
    asked, device = threading.Event(), Device()

    class Told(Record):
        def scored(self, model: LoadedModel, pieces: Any, outputs: Any, run: Run) -> None:
            told.append([int(piece.offsets[0]) for piece in pieces])
            super().scored(model, pieces, outputs, run)

    def begin(piece: Any) -> Any:
        # While the second group's first record is about to run, a request comes.
        if piece.offsets[0] == GROUP and not asked.is_set():
            asked.set()
            device.submit(LaneKey("m", "1"), model, requests([99], inputs={"x": np.array([1])}), sink, BatchLimits)
        return piece

    sink = Told(2 * GROUP + 1, late=begin)
    for n in range(2 * GROUP):
        piece = requests([n], inputs={"x": np.array([n % 2])})
        device.submit(LaneKey("m", "1", bulk=True), model, piece, sink, BatchLimits)
    device.start(1)
    assert sink.done.wait(20)
    device.stop()
    assert told == [[*range(GROUP)], [GROUP], [99], [*range(GROUP + 1, 2 * GROUP)]]
    assert sink.values == {99: 20.0, **{n: 10.0 + 10 * (n % 2) for n in range(2 * GROUP)}}
    assert device.rows(True) == device.rows(False) == 0


@given(
    count=st.integers(1, 9),
    rows_each=st.integers(1, 3),
    data=st.data(),
)
def test_picked_requests_keep_all_that_is_theirs(count: int, rows_each: int, data: st.DataObject) -> None:
    piece = requests(range(count), rows_each, headers=[[("n", bytes([n]))] for n in range(count)])
    where = data.draw(st.lists(st.integers(0, count - 1), min_size=1, unique=True).map(sorted))
    picked = piece.pick(np.array(where))
    assert [*picked.ids] == [f"r{n}".encode() for n in where]
    assert picked.inputs["x"].tolist() == [n for n in where for _ in range(rows_each)]
    assert picked.headers == [[("n", bytes([n]))] for n in where]


@given(steps=st.lists(st.tuples(st.floats(0.001, 1), st.booleans()), min_size=1, max_size=30))
def test_bulk_is_due_exactly_while_it_had_less_than_its_share_of_what_is_remembered(
    steps: list[tuple[float, bool]],
) -> None:
    share, now, spent = Share(0.25), 0.0, []
    for seconds, bulk in steps:
        now += seconds
        share.spent(now, seconds, bulk)
        spent.append((now, seconds, bulk))
    weights = [(seconds * 0.5 ** (now - at), bulk) for at, seconds, bulk in spent]
    own, total = sum(w for w, bulk in weights if bulk), sum(w for w, _ in weights)
    if abs(own - 0.25 * total) > 1e-9:
        assert share.bulk_is_due() == (own < 0.25 * total)


class Record:
    """A sink that keeps what it is told, and lets a test wait for the last unit."""

    def __init__(self, expected: int, late: Callable[[Any], Any] = lambda piece: piece) -> None:
        self.values: dict[int, float] = {}
        self.errors: dict[int, tuple[Code, str]] = {}
        self.runs: list[tuple[float, list[int]]] = []
        self.expired = late
        self._left = expected
        self.done = threading.Event()

    def scored(self, model: LoadedModel, pieces: Sequence[Any], outputs: Sequence[dict[str, Array]], run: Run) -> None:
        del model
        self.runs.append((run.dispatched, [unit for piece in pieces for unit in piece.offsets.tolist()]))
        for piece, own in zip(pieces, outputs, strict=True):
            self.values |= dict(zip(piece.offsets.tolist(), own["y"].tolist(), strict=True))
            self._count(piece.count)

    def failed(self, piece: Any, code: Code, message: str) -> None:
        self.errors |= dict.fromkeys(piece.offsets.tolist(), (code, message))
        self._count(piece.count)

    def _count(self, units: int) -> None:
        self._left -= units
        if self._left <= 0:
            self.done.set()


@pytest.mark.parametrize("culprits", [{0}, {5}, {19}, {3, 4, 11}, set(range(20))], ids=lambda one: str(sorted(one)))
def test_a_batch_that_raises_is_halved_until_each_culprit_is_alone(model: LoadedModel, culprits: set[int]) -> None:
    sink, device = Record(20), Device()
    for numbers in (range(8), range(8, 9), range(9, 20)):
        inputs = {"x": np.array([7 if n in culprits else n % 2 for n in numbers])}
        device.submit(LaneKey("m", "1"), model, requests(numbers, inputs=inputs), sink, BatchLimits)
    device.start(1)
    try:
        assert sink.done.wait(20)
    finally:
        device.stop()
    assert sink.errors.keys() == culprits
    assert all(code is Code.INFERENCE_FAILED and "Gather" in text for code, text in sink.errors.values())
    assert sink.values == {n: [10.0, 20.0][n % 2] for n in range(20) if n not in culprits}
    assert device.rows(False) == 0


def test_what_expired_in_the_queue_reaches_no_model(model: LoadedModel) -> None:
    sink, device = Record(1, late=lambda piece: piece.pick(np.array([1])) if piece.count > 1 else None), Device()
    wrong = requests(range(2), inputs={"x": np.array([7, 1])})
    device.submit(LaneKey("m", "1"), model, wrong, sink, BatchLimits)
    device.submit(LaneKey("m", "1", "e", "v"), model, requests([2], inputs={"x": np.array([7])}), sink, BatchLimits)
    device.start(1)
    try:
        assert sink.done.wait(20)
    finally:
        device.stop()
    assert sink.values == {1: 20.0}
    assert sink.errors == {}


def test_a_backlog_leaves_in_full_batches_oldest_first(model: LoadedModel) -> None:
    sink, device = Record(100), Device()
    for n in range(100):
        device.submit(
            LaneKey("m", "1"), model, requests([n], inputs={"x": np.array([0])}), sink, lambda: BatchLimits(max_rows=32)
        )
    device.start(1)
    try:
        assert sink.done.wait(20)
    finally:
        device.stop()
    # By when each began: the results of two runs may cross on their way.
    batches = [units for _, units in sorted(sink.runs)]
    assert [len(units) for units in batches] == [32, 32, 32, 4]
    assert [unit for units in batches for unit in units] == [*range(100)]


def test_a_bug_in_a_sink_stops_the_device_and_is_kept_for_the_worker(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Record):
        def scored(self, *_: Any) -> None:
            self.done.set()
            raise KeyError("a bug")

    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    sink, device = Broken(1), Device()
    device.submit(LaneKey("m", "1"), model, requests([0], inputs={"x": np.array([0])}), sink, BatchLimits)
    device.start(1)
    assert sink.done.wait(20)
    device.stop()
    assert isinstance(device.failure, KeyError)


class Gate(Record):
    """Lets a run end when the test says so."""

    def __init__(self, expected: int) -> None:
        super().__init__(expected)
        self.began, self.go = threading.Event(), threading.Event()

    def held(self, piece: Any) -> Any:
        self.began.set()
        assert self.go.wait(20)
        return piece


def test_the_lanes_of_a_retired_version_go_once_what_is_in_them_is_done(model: LoadedModel) -> None:
    sink, device = Gate(2), Device()
    sink.expired = sink.held
    old, other = LaneKey("m", "1", "e", "v"), LaneKey("m", "2")
    device.submit(old, model, requests([0], inputs={"x": np.array([0])}), sink, BatchLimits)
    device.start(1)
    assert sink.began.wait(20)
    device.submit(other, model, requests([1], inputs={"x": np.array([1])}), sink, BatchLimits)
    device.forget("m", "1")
    assert set(device.lanes) == {old, other}, "a run is under way"
    sink.go.set()
    assert sink.done.wait(20)
    device.stop()
    assert device.lanes == [other]
    device.forget("m", "2")
    assert device.lanes == []
    device.forget("m", "3")
    assert sink.values == {0: 10.0, 1: 20.0}


def test_a_version_that_comes_back_under_its_name_keeps_its_lane(model: LoadedModel) -> None:
    sink, device = Record(2), Device()
    key = LaneKey("m", "1")
    device.forget("m", "1")
    for unit in range(2):
        device.submit(key, model, requests([unit], inputs={"x": np.array([unit])}), sink, BatchLimits)
    device.start(1)
    assert sink.done.wait(20)
    device.stop()
    assert device.lanes == [key]


def test_a_lane_that_nobody_used_for_long_makes_room_for_the_next(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("stream_workers.device.monotonic", lambda: now[0])
    device = Device()
    piece = requests([0], inputs={"x": np.array([0])})
    device.submit(LaneKey("m", "1", "e", "full"), model, piece, Record(1), BatchLimits)
    device.submit(LaneKey("m", "1", "e", "empty"), model, piece, Record(1), BatchLimits)
    device._lanes[LaneKey("m", "1", "e", "empty")].take(1)
    now[0] += IDLE_SECONDS - 1
    device.submit(LaneKey("m", "1"), model, piece, Record(1), BatchLimits)
    assert len(device.lanes) == 3
    now[0] += 2
    device.submit(LaneKey("m", "1", bulk=True), model, piece, Record(1), BatchLimits)
    assert [(one.variant, one.bulk) for one in device.lanes] == [("full", False), ("", False), ("", True)]
