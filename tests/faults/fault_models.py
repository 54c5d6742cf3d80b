"""The models that the fault tests ask: small, exact in float32, and one that raises."""

from __future__ import annotations

from pathlib import Path

from onnx_models import linear, lookup

from models.batching import BatchLimits
from models.registry import ModelStore
from models.routing import Experiment
from models.signature import FeatureSpec, Score, Signature, TensorSpec

EXPERIMENT = "halves"


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
