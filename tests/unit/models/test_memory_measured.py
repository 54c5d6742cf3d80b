"""The planned memory beside what a process of its own takes: an MLP, a ResNet-50 in shape, a BERT-like encoder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from models.memory import activations
from models.onnx_graph import OnnxFile

pytestmark = pytest.mark.train

# Runs a model in a process whose allocator gives every large block back at once, and tells, in bytes, the peak of its
# resident memory over what it was with the model open: without an arena that is what the tensors take, and with a
# worker's own session, after several runs, what a worker keeps.
CHILD = """
import json, sys
from models.runtime import runtime, session_options
from models.session import signature_of
path, rows, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))
signature = signature_of(path)
options = session_options(1, signature)
if kind == "buffers":
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
session = runtime().InferenceSession(path, options, providers=["CPUExecutionProvider"])
def feed(count):
    return {one.name: one.sample(count, fill=1) for one in signature.inputs}
session.run(None, feed(1))
given = feed(rows)
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
for _ in range(3):
    session.run(None, given)
print(json.dumps(status("VmHWM") - before))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The three models as torch exports them, in one process of their own, with random weights."""
    folder = tmp_path_factory.mktemp("exported")
    command = [sys.executable, "-m", "tests.torch_models", str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=240, cwd=Path(__file__).parents[3])
    return {name: folder / f"{name}.onnx" for name in ("mlp", "cnn", "bert")}


def measured(path: Path, rows: int, kind: str) -> int:
    environment = {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(rows), kind],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return int(json.loads(done.stdout))


@pytest.mark.skipif(sys.platform != "linux", reason="a process's peak is read from /proc")
@pytest.mark.parametrize(("name", "rows"), [("mlp", 4096), ("cnn", 32), ("bert", 24)])
def test_planned_memory_is_within_15_percent_of_a_processs_peak(
    exported: dict[str, Path], name: str, rows: int
) -> None:
    planned = activations(OnnxFile(exported[name]).at(rows))
    assert planned.unsized == ()
    assert planned.buffers == pytest.approx(measured(exported[name], rows, "buffers"), rel=0.15)
    # What a worker keeps is a bound: where the block of the second run fits into what the first gave back, it is less.
    kept = measured(exported[name], rows, "worker")
    assert planned.buffers < kept < planned.kept * 1.15


def test_weights_are_those_of_the_exported_models(exported: dict[str, Path]) -> None:
    graph = OnnxFile(exported["mlp"]).at(1)
    assert sum(one.size for one in graph.all_weights()) == 4 * (513 * 2048 + 2049 * 2048 + 2049)
