"""A bound run answers what a plain one does, reuses its buffers, keeps two batches under way and types failures."""

from __future__ import annotations

import gc
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bound import Cudart, Watched, bound, ones, raw, shrinks
from hypothesis import given, settings
from hypothesis import strategies as st
from small_onnx import attention, identity, linear, lookup, node, write

from models.batching import BatchLimits, device_buckets
from models.bound_runner import BoundRunner, Shrinking, output_shape
from models.cuda_memory import CudaMemory
from models.errors import DeviceLostError, DeviceOutOfMemoryError, InferenceError
from models.execution import can_be_bound
from models.loading import LoadedModel
from models.registry import ModelStore
from models.session import Session, signature_of
from models.signature import AxisBuckets, Signature, TensorSpec
from models.staging import HostMemory, Staging
from schemas.tensors import DATATYPES, Array

PATIENCE = 30.0


class OnHost(CudaMemory):
    """CUDA's memory over a stand-in for its library; ONNX Runtime sees the host's."""

    device_type = "cpu"


def runner(session: Session) -> BoundRunner:
    found = session._runner
    assert isinstance(found, BoundRunner)
    return found


def sequences(path: Path) -> Path:
    """values, mask [rows, seq] to masked [rows, seq] and total [rows]."""
    return write(
        path,
        [
            node("Cast", ["mask"], ["weights"], to=1),
            node("Mul", ["values", "weights"], ["masked"]),
            node("ReduceSum", ["masked", "one"], ["total"], keepdims=0),
        ],
        [("values", "FP32", ("rows", "seq")), ("mask", "BOOL", ("rows", "seq"))],
        [("masked", "FP32", ("rows", "seq")), ("total", "FP32", ("rows",))],
        {"one": np.array([1], np.int64)},
    )


def cut(path: Path) -> Path:
    """y [rows, any]: the columns of x [rows, 4] whose sum is not 0; only a run tells how many. z [rows, 4] = x."""
    return write(
        path,
        [
            node("ReduceSum", ["x", "zero"], ["sums"], keepdims=0),
            node("Cast", ["sums"], ["kept"], to=9),
            node("Compress", ["x", "kept"], ["y"], axis=1),
            node("Identity", ["x"], ["z"]),
        ],
        [("x", "FP32", ("rows", 4))],
        [("y", "FP32", ("rows", "found")), ("z", "FP32", ("rows", 4))],
        {"zero": np.array([0], np.int64)},
    )


@pytest.mark.parametrize("datatype", [one for one in DATATYPES if one != "BYTES"])
def test_every_datatype_goes_through_the_buffers(tmp_path: Path, datatype: str) -> None:
    session = bound(identity(tmp_path / "m.onnx", datatype))
    x = np.arange(6).reshape(2, 3).astype(DATATYPES[datatype])
    for array in (x, x[:1], x[::-1]):
        y = session.run({"x": array})["y"]
        assert y.dtype == x.dtype
        assert np.array_equal(y, array)


@settings(max_examples=40, deadline=None)
@given(shapes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=6))
def test_batches_of_any_shape_in_any_order_get_the_plain_answer(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[int, int]]
) -> None:
    path = sequences(tmp_path_factory.mktemp("m") / "m.onnx")
    session, plain = bound(path), Session.open(path, signature_of(path), "cpu")
    rng = np.random.default_rng(len(shapes))
    for shape in shapes:
        inputs: dict[str, Array] = {"values": rng.random(shape, np.float32), "mask": rng.random(shape) < 0.5}
        got, expected = session.run(inputs), plain.run(inputs)
        assert list(got) == list(expected)
        assert all(np.array_equal(got[name], expected[name]) for name in expected)


def test_an_output_whose_shape_only_a_run_tells_comes_out_beside_one_of_known_shape(tmp_path: Path) -> None:
    session = bound(cut(tmp_path / "m.onnx"))
    for columns in ([1, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]):
        x = np.tile(np.array(columns, np.float32), (3, 1))
        out = session.run({"x": x})
        assert out["y"].shape == (3, sum(columns))
        assert np.array_equal(out["z"], x)


def test_buffers_are_made_for_the_largest_batch_and_then_reused(tmp_path: Path) -> None:
    session = bound(linear(tmp_path / "m.onnx"), runs=1)
    session.run(ones(5000))
    made = runner(session).allocations
    for rows in (1, 4999, 16, 5000, 3):
        assert session.run(ones(rows))["y"].ravel().tolist() == [6.0] * rows
    assert runner(session).allocations == made == 2
    session.run(ones(20_000))
    assert runner(session).allocations == made + 2


def test_sizes_that_creep_up_do_not_mean_an_allocation_each() -> None:
    staging = Staging(HostMemory())
    for size in range(1, 100_000, 7):
        assert staging.area("x", size).size >= size
    assert staging.allocations == 6
    assert len({staging.area("x", size).address for size in (1, 5, 90_000)}) == 1


def test_answers_are_the_callers_and_stay_when_the_buffers_are_used_again(tmp_path: Path) -> None:
    session = bound(linear(tmp_path / "m.onnx"), runs=1)
    first = session.run(ones(4))["y"]
    session.run(ones(4, 7.0))
    assert first.ravel().tolist() == [6.0] * 4


def test_one_batch_is_copied_while_another_computes(tmp_path: Path) -> None:
    """The second's upload has to come before the first's run may end, or neither does."""
    copied, computing = threading.Event(), threading.Event()

    class Telling(HostMemory):
        def upload(self, address: int, source: Array, stream: int) -> None:
            super().upload(address, source, stream)
            if computing.is_set():
                copied.set()

    def slow(_: Any) -> None:
        if not computing.is_set():
            computing.set()
            assert copied.wait(PATIENCE), "the other batch waits for this one to end"

    path = linear(tmp_path / "m.onnx")
    session = bound(path, Watched(raw(path), slow), memory=Telling(), runs=2)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(session.run, ones(2))
        assert computing.wait(PATIENCE)
        second = pool.submit(session.run, ones(3, 2.0))
        assert second.result(PATIENCE)["y"].ravel().tolist() == [12.0] * 3
        assert first.result(PATIENCE)["y"].ravel().tolist() == [6.0] * 2


def test_no_more_batches_are_under_way_than_there_are_lanes(tmp_path: Path) -> None:
    inside, most, lock = 0, 0, threading.Lock()
    both = threading.Barrier(2)

    def count(_: Any) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        both.wait(PATIENCE)
        with lock:
            inside -= 1
        both.wait(PATIENCE)

    path = linear(tmp_path / "m.onnx")
    session = bound(path, Watched(raw(path), count), runs=2)
    with ThreadPoolExecutor(6) as pool:
        done = [pool.submit(session.run, ones(rows, rows)) for rows in range(1, 7)]
        assert [one.result(PATIENCE)["y"][0, 0] for one in done] == [6 * rows for rows in range(1, 7)]
    assert most == 2


def test_threads_never_read_one_anothers_rows(tmp_path: Path) -> None:
    session = bound(linear(tmp_path / "m.onnx"), runs=2)

    def ask(number: int) -> bool:
        rows = 1 + number % 37
        return session.run(ones(rows, number))["y"].ravel().tolist() == [6.0 * number] * rows

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(400)))


@pytest.mark.parametrize("function", ["cudaHostAlloc", "cudaMalloc"])
def test_memory_that_runs_out_is_typed_leaks_nothing_and_is_shrunk_after(tmp_path: Path, function: str) -> None:
    path = linear(tmp_path / "m.onnx")
    library, told = Cudart(), list[Any]()
    session = bound(path, Watched(raw(path), told.append), memory=OnHost(0, library), runs=1, device="cuda:0")
    session.prepare(ones(8))
    assert session.run(ones(8))["y"][0, 0] == 6
    library.fail[function] = 2
    with pytest.raises(DeviceOutOfMemoryError, match="cuda:0 is out of memory for this batch: CUDA failure 2"):
        session.run(ones(5000))
    assert [session.run(ones(8))["y"][0, 0] for _ in range(2)] == [6, 6]
    assert [shrinks(one) for one in told] == [False, True, False]
    session.close()
    assert library.held == 0


@pytest.mark.parametrize("function", ["cudaMemcpyAsync", "cudaStreamSynchronize"])
def test_a_device_that_fails_in_a_copy_is_lost(tmp_path: Path, function: str) -> None:
    library = Cudart()
    session = bound(linear(tmp_path / "m.onnx"), memory=OnHost(0, library), device="cuda:0")
    library.fail[function] = 700
    with pytest.raises(DeviceLostError, match="an illegal memory access"):
        session.run(ones(2))


def test_a_device_that_fails_in_a_run_is_lost(tmp_path: Path) -> None:
    def fail(_: Any) -> None:
        raise RuntimeError("CUDA failure 719: unspecified launch failure ; GPU=0")

    path = linear(tmp_path / "m.onnx")
    session = bound(path, Watched(raw(path), fail), device="cuda:0")
    with pytest.raises(DeviceLostError, match="unspecified launch failure"):
        session.run(ones(2))


def test_closing_on_a_device_that_is_lost_says_so_and_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    library = Cudart()
    session = bound(linear(tmp_path / "m.onnx"), memory=OnHost(0, library), device="cuda:0")
    session.run(ones(2))
    library.fail["cudaFree"] = 700
    with caplog.at_level(logging.WARNING):
        session.close()
    assert "cuda:0 is lost, its memory is not given back: CUDA failure 700" in caplog.text


def test_a_model_that_raises_leaves_its_lane_fit_for_the_next_batch(tmp_path: Path) -> None:
    session = bound(lookup(tmp_path / "m.onnx"), runs=1)
    for _ in range(3):
        with pytest.raises(InferenceError, match="indices element out of data bounds"):
            session.run({"x": np.array([0, 5])})
        assert session.run({"x": np.array([1, 0])})["y"].tolist() == [20, 10]


def test_only_a_batch_beyond_the_warm_ones_shrinks() -> None:
    policy = Shrinking()
    assert [policy.due(size) for size in (1, 1000)] == [False, False]
    policy.warmed(100)
    policy.warmed(50)
    assert [policy.due(size) for size in (100, 101, 100)] == [False, True, False]
    policy.failed()
    assert [policy.due(1), policy.due(1)] == [True, False]


def test_closing_gives_everything_back_and_tells_whoever_waits(tmp_path: Path) -> None:
    running, go = threading.Event(), threading.Event()

    def hold(_: Any) -> None:
        running.set()
        assert go.wait(PATIENCE)

    path = linear(tmp_path / "m.onnx")
    memory = HostMemory()
    session = bound(path, Watched(raw(path), hold), memory=memory, runs=1)
    held = runner(session)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(session.run, ones(2))
        assert running.wait(PATIENCE)
        closing = pool.submit(session.close)
        go.set()
        assert first.result(PATIENCE)["y"][0, 0] == 6
        closing.result(PATIENCE)
    assert memory.held == 0
    session.close()
    for run in (session.run, held.run):
        with pytest.raises(InferenceError, match="the model was closed"):
            run(ones(1))


def test_a_model_that_was_dropped_unclosed_is_cleared_up_when_the_next_is_opened(tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    library = Cudart()
    session = bound(path, memory=OnHost(0, library))
    session.run(ones(2))
    assert library.held > 0
    del session
    gc.collect()
    assert library.held > 0, "a capture may be under way where garbage is collected"
    bound(path).close()
    assert library.held == 0


def test_text_cannot_be_bound(tmp_path: Path) -> None:
    assert not can_be_bound(signature_of(attention(tmp_path / "a.onnx")))
    assert can_be_bound(signature_of(linear(tmp_path / "b.onnx")))


def test_an_outputs_shape_is_known_from_rows_numbers_and_the_inputs_own_axes() -> None:
    x = TensorSpec("x", "FP32", ("rows", "seq", 3))

    def shape(*extents: int | str) -> tuple[int, ...] | None:
        return output_shape(TensorSpec("y", "FP32", ("rows", *extents)), (x,), ((2, 7, 3),))

    assert [shape(), shape(5), shape("seq", 4), shape("other"), shape(-1)] == [(2,), (2, 5), (2, 7, 4), None, None]


def test_a_gpu_pads_to_few_sizes_and_by_a_third_at_most() -> None:
    for most in (1, 2, 7, 8, 16, 100, 1024, 4096):
        sizes = device_buckets(BatchLimits(max_rows=most))
        assert sizes[0] == 1
        assert sizes[-1] == most
        assert len(sizes) <= 2 * most.bit_length()
        for rows in range(9, most + 1):
            padded = next(one for one in sizes if one >= rows)
            assert (padded - rows) / padded < (0.5 if padded <= 16 else 1 / 3)


def test_a_model_on_a_gpu_is_warmed_up_on_each_size_its_policy_may_choose(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    path = linear(tmp_path / "m.onnx")
    store.add_onnx("m", "1", path, signature_of(path), batching=BatchLimits(max_rows=64, max_run=5.5))
    manifest = store.manifest("m", "1")
    # Each second look at the clock is a warm run's end; run number n takes n seconds.
    ticks = (second for number in range(1, 100) for second in (1000 * number, 1001 * number))
    model = LoadedModel(manifest, bound(path, device="cuda:0"), clock=lambda: float(next(ticks)))
    assert model.warm_up == [(1, 1), (2, 2), (4, 3), (8, 4), (16, 5), (24, 6)]
    assert model.padded_rows(17) == 24
    out = model.run([ones(9, 1.0), ones(8, 2.0)])
    assert [one["y"].ravel().tolist() for one in out] == [[6.0] * 9, [12.0] * 8]


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=4),
    buckets=st.sampled_from([(), (4,), (2, 8, 32)]),
    axis=st.sampled_from([(), (4, 16)]),
)
def test_parts_written_straight_into_the_buffers_are_answered_as_merged_ones(
    tmp_path_factory: pytest.TempPathFactory,
    shapes: list[tuple[int, int]],
    buckets: tuple[int, ...],
    axis: tuple[int, ...],
) -> None:
    folder = tmp_path_factory.mktemp("m")
    path = sequences(folder / "m.onnx")
    found = signature_of(path)
    signature = Signature(found.inputs, found.outputs, axes=(AxisBuckets("seq", axis),) if axis else ())
    store = ModelStore(folder / "store")
    store.add_onnx("m", "1", path, signature, BatchLimits(max_rows=32, buckets=buckets))
    manifest = store.manifest("m", "1")
    plain, staged = LoadedModel(manifest, Session.open(path, signature, "cpu")), LoadedModel(manifest, bound(path))
    rng = np.random.default_rng(len(shapes))
    parts = [{"values": rng.random(one, np.float32), "mask": rng.random(one) < 0.5} for one in shapes]
    for got, expected in zip(staged.run(parts), plain.run(parts), strict=True):
        assert list(got) == list(expected)
        assert np.array_equal(got["masked"], expected["masked"])
        np.testing.assert_allclose(got["total"], expected["total"], rtol=1e-6)


def test_an_input_of_another_type_is_refused_and_not_converted(tmp_path: Path) -> None:
    session = bound(linear(tmp_path / "m.onnx"))
    with pytest.raises(InferenceError, match="input 'x': expected float32, got float64"):
        session.run({"x": np.ones((2, 3))})
