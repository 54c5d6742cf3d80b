"""The GPU's benchmark runs on a CPU, says that this is no GPU figure, and says what it needs where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import gpu
from benchmarks.gpu_card import Card, Watch
from benchmarks.gpu_pipeline import Block

ROOT = Path(__file__).parents[3]


def has_cuda() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif("has_cuda()")
def test_without_a_gpu_one_line_says_what_is_needed(tmp_path: Path) -> None:
    done = run("--output", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1
    assert "needs an NVIDIA GPU with its driver and the extras `gpu` and `train`" in done.stdout
    assert "this ONNX Runtime has no CUDA" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.train
def test_the_same_code_runs_on_a_cpu_and_says_so(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    done = run("--output", str(tmp_path), "--device", "cpu", "--small", "--models", "mlp", "--seconds", "0.3")
    assert (done.returncode, done.stderr) == (0, "")
    (path,) = tmp_path.glob("*-gpu-cpu.json")
    found = json.loads(path.read_text())
    assert found["is_gpu_figure"] is False
    assert found["machine"]["device"] == "cpu"
    assert "onnxruntime" in found["machine"]["versions"]
    assert [(one["model"], one["precision"], one["device"]) for one in found["measured"]] == [
        ("mlp", "fp32", "cpu"),
        ("mlp", "fp16", "cpu"),
    ]
    for one in found["measured"]:
        assert one["rows_per_second"] > 0
        assert one["ratio"] == pytest.approx(one["rows_per_second"] / one["alone"]["rows_per_second"])
        assert one["load_p99_ms"] >= one["load_p50_ms"] > 0
        assert one["difference_from_cpu"] < 1e-3
        assert one["utilization"] is None
        assert one["missed"] == []
    text = path.with_suffix(".md").read_text()
    assert "nothing here says anything about a GPU" in text
    assert "| MLP 32-64-64-1 | fp16 | off |" in text


def test_goals_are_missed_where_figures_are_beyond_them_or_missing() -> None:
    good = {"ratio": 0.95, "utilization": 0.97, "load_utilization": 0.8, "load_p99_ms": 40.0}
    assert gpu._missed(good) == []
    assert gpu._missed({**good, "ratio": 0.89}) == ["rows/s of ONNX Runtime alone: 0.89, goal 0.9"]
    assert gpu._missed({**good, "load_p99_ms": 100.0}) == ["p99 at 70% load, ms: 100.00, goal 100"]
    assert gpu._missed({**good, "utilization": None}) == ["utilisation under backlog: not measured, goal 0.9"]


def test_a_cpu_has_no_utilisation() -> None:
    with Watch(Card(None)) as watch:
        pass
    assert watch.mean is None


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 12))
def test_blocks_are_cut_and_joined_without_losing_a_row(sizes: list[int], at: int) -> None:
    numbers = iter(range(100))
    blocks = []
    for size in sizes:
        own = np.array([next(numbers) for _ in range(size)], np.float64)
        blocks.append(Block({"x": own[:, None]}, own, 0.0))
    (joined,) = blocks[0].joined(blocks[1:])
    assert joined.due.tolist() == list(range(sum(sizes)))
    first, rest = joined.split(at)
    parts = [first] if rest is None else [first, rest]
    assert first.rows == min(max(at, 1), joined.rows)
    assert np.concatenate([one.inputs["x"][:, 0] for one in parts]).tolist() == joined.due.tolist()
    if joined.count > 1:
        assert sum(one.rows for one in joined.halve()) == joined.rows
