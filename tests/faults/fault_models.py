"""The models that the fault tests ask: small, exact in float32, and one that raises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx_models import linear, lookup, node
from onnx_models import write as write_onnx

from models.batching import BatchLimits
from models.registry import ModelStore
from models.routing import Experiment
from models.signature import FeatureSpec, Score, Signature, TensorSpec

EXPERIMENT = "halves"
WIDTH = 512
Floats = npt.NDArray[np.float32]


def weights_of(version: str) -> tuple[float, float, float]:
    """What a version of "sum" (and "named") multiplies its three features with."""
    return (float(version), 2.0 * float(version), 4.0)


def fill(root: Path, scratch: Path) -> Path:
    """A store with sum 1 and 2 (x [rows, 3]), named 1 (features a, b, c) and lookup 1 (raises beyond index 1)."""
    store = ModelStore(root)
    scratch.mkdir(exist_ok=True)
    limits = BatchLimits(max_rows=64)
    for version in ("1", "2"):
        path = linear(scratch / f"sum{version}.onnx", weights_of(version))
        store.add_onnx("sum", version, path, batching=limits)
    named = Signature(
        (TensorSpec("x", "FP32", ("rows", 3)),),
        (TensorSpec("y", "FP32", ("rows", 1)),),
        tuple(FeatureSpec(name, "x", at) for at, name in enumerate("abc")),
        Score("y"),
    )
    store.add_onnx("named", "1", linear(scratch / "named.onnx", weights_of("1")), named, limits)
    store.add_onnx("lookup", "1", lookup(scratch / "lookup.onnx"), batching=limits)
    return root


def experiment() -> Experiment:
    """Half of the users meet version 1 of "sum", the others version 2."""
    return Experiment.create(EXPERIMENT, "sum", {"A": 0.5, "B": 0.5}, {"A": "1", "B": "2"})


def _layers() -> tuple[Floats, Floats, Floats]:
    # Whole weights and inputs in halves: sums of float32 are exact in any order, so that no batching shows in them.
    rng = np.random.default_rng(3)
    first, second = (rng.integers(-1, 2, shape).astype(np.float32) for shape in ((3, WIDTH), (WIDTH, WIDTH)))
    return first, second, np.ones((WIDTH, 1), np.float32)


def fill_slow(root: Path, scratch: Path) -> Path:
    """A store with slow 1: y [rows, 1] of x [rows, 3], some ten microseconds a row."""
    scratch.mkdir(exist_ok=True)
    names = ["x", "a", "b", "c", "d", "y"]
    kinds = ["MatMul", "Relu", "MatMul", "Relu", "MatMul"]
    weights = dict(zip(("w0", "w2", "w4"), _layers(), strict=True))
    nodes = [
        node(kind, [names[at], *([f"w{at}"] if kind == "MatMul" else [])], [names[at + 1]])
        for at, kind in enumerate(kinds)
    ]
    path = write_onnx(scratch / "slow.onnx", nodes, [("x", "FP32", ("rows", 3))], [("y", "FP32", ("rows", 1))], weights)
    ModelStore(root).add_onnx("slow", "1", path, batching=BatchLimits(max_rows=1024))
    return root


def slowly(x: Floats) -> Floats:
    """What "slow" makes of x [rows, 3]."""
    first, second, last = _layers()
    answer: Floats = np.maximum(np.maximum(x @ first, 0) @ second, 0) @ last
    return answer
