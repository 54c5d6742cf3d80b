"""Measures a worker's pipeline on a GPU beside ONNX Runtime alone: `python -m benchmarks.gpu --output FOLDER`.

An MLP, a ResNet-50 in shape and a BERT-base in shape, with random weights exported by torch, in FP32 and FP16, with
CUDA graphs and without: rows a second under backlog against ONNX Runtime alone at its best batch size, the GPU's
utilisation, and the latency at 70% of that rate. Writes DATE-gpu-NAME.json and .md; exits 1 where a goal is missed.
Needs an NVIDIA GPU and the extras `gpu` and `train`. `--device cpu --small` runs the same code without: no GPU figure.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.gpu_card import Card, Watch
from benchmarks.gpu_pipeline import Pipeline, PipelineError
from benchmarks.torch_models import encoder, perceptron, resnet
from models.batching import BatchLimits, device_buckets
from models.bound_runner import BoundRunner
from models.cuda import open_on_gpu
from models.device_options import DeviceOptions
from models.errors import ModelError
from models.execution import PlainRunner
from models.export import export_onnx
from models.loading import LoadedModel
from models.quantization import to_fp16
from models.registry import ModelStore
from models.runtime import open_on_cpu, session_options
from models.session import Session, signature_of
from models.signature import Signature
from models.staging import HostMemory
from schemas.tensors import Array

NEEDS: Final = (
    "needs an NVIDIA GPU with its driver and the extras `gpu` and `train` (onnxruntime-gpu, nvidia-ml-py, torch, onnx, "
    "onnxscript); `--device cpu --small` runs the same code without a GPU"
)
LOAD: Final = 0.7
GOALS: Final = (
    ("ratio", "rows/s of ONNX Runtime alone", 0.9, True),
    ("utilization", "utilisation under backlog", 0.9, True),
    ("load_utilization", "utilisation at 70% load", 0.7, True),
    ("load_p99_ms", "p99 at 70% load, ms", 100.0, False),
)
_SEED: Final = 7
_WORDS: Final = 30_522


@dataclass(frozen=True, slots=True)
class Work:
    """A model of the benchmark. `sample` makes its input of n rows; `max_rows`: of a batch, `block`: of a poll."""

    name: str
    shown: str
    build: Callable[[], Any]
    sample: Callable[[int], Array]
    max_rows: int
    block: int


def works(small: bool) -> list[Work]:
    """The models; `small` ones take seconds on a CPU."""
    rng = np.random.default_rng(_SEED)
    if small:
        return [
            Work(
                "mlp",
                "MLP 32-64-64-1",
                lambda: perceptron(32, 64),
                lambda n: rng.random((n, 32), np.float32),
                256,
                32,
            ),
            Work("cnn", "ResNet-50 in shape, 4 wide", lambda: resnet(4, 10), lambda n: _pictures(rng, n, 64), 8, 4),
            Work("bert", "BERT in shape, 2 layers of 64", lambda: encoder(2, 64), lambda n: _words(rng, n, 1000), 8, 4),
        ]
    return [
        Work(
            "mlp",
            "MLP 512-2048-2048-1",
            perceptron,
            lambda n: rng.random((n, 512), np.float32),
            max_rows=4096,
            block=2048,
        ),
        Work("cnn", "ResNet-50 in shape", lambda: resnet(64, 1000), lambda n: _pictures(rng, n, 224), 128, 32),
        Work(
            "bert",
            "BERT-base in shape, 128 words",
            lambda: encoder(12, 768, 12, 128, _WORDS),
            lambda n: _words(rng, n, _WORDS),
            256,
            64,
        ),
    ]


def _pictures(rng: np.random.Generator, rows: int, size: int) -> Array:
    return rng.random((rows, 3, size, size), np.float32)


def _words(rng: np.random.Generator, rows: int, words: int) -> Array:
    return rng.integers(0, words, (rows, 128))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write; the exit status: 1 where a goal is missed, 2 where it cannot be measured."""
    options = _parser().parse_args(arguments)
    kind, _, number = options.device.partition(":")
    chosen = options.models.split(",")
    plan = [one for one in works(options.small) if one.name in chosen]
    if len(plan) < len(set(chosen)) or kind not in ("cuda", "tensorrt", "cpu"):
        _say("--models takes mlp, cnn and bert with commas between them, --device cuda, tensorrt or cpu")
        return 2
    try:
        if kind != "cpu":
            # Before minutes go into exporting: ONNX Runtime and NVML have to see the GPU.
            _probe(options.device)
        card = Card(None if kind == "cpu" else int(number or 0))
        with tempfile.TemporaryDirectory(prefix="penstock-gpu-") as scratch:
            work = options.work or Path(scratch)
            work.mkdir(parents=True, exist_ok=True)
            document = _measure_all(options, plan, card, work)
            if options.broker:
                document["broker"] = _with_broker(options, work)
    except (ModelError, PipelineError) as error:
        _say(f"benchmarks.gpu {NEEDS}: {error}" if kind != "cpu" else f"benchmarks.gpu: {error}")
        return 2
    path = _write(document, options.output)
    missed = [line for one in document["measured"] for line in one.get("missed", ())]
    _say(f"{len(missed)} goals missed; written to {path} and {path.with_suffix('.md').name}")
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the folder for the JSON and the table")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, tensorrt, tensorrt:N or cpu")
    parser.add_argument("--models", default="mlp,cnn,bert")
    parser.add_argument("--precisions", default="fp32,fp16")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each timed part")
    parser.add_argument("--small", action="store_true", help="models that take seconds on a CPU")
    parser.add_argument("--work", type=Path, help="a folder that keeps the exported models")
    parser.add_argument("--broker", help="embedded, kafka or HOST:PORT: the MLP through a whole worker as well")
    return parser


def _probe(device: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        from penstock.bench.onnx_file import mlp

        path = Path(folder) / "probe.onnx"
        path.write_bytes(mlp((4, 4, 1)))
        session = Session.open(path, signature_of(path), device)
        session.run({one.name: one.sample(2) for one in signature_of(path).inputs})
        session.close()


def _measure_all(options: argparse.Namespace, plan: Sequence[Work], card: Card, work: Path) -> dict[str, Any]:
    document: dict[str, Any] = {
        "benchmark": "gpu",
        "is_gpu_figure": card.is_gpu,
        "machine": card.to_json(),
        "small": options.small,
        "seconds": options.seconds,
        "load": LOAD,
        "measured": [],
    }
    for one in plan:
        for precision in options.precisions.split(","):
            path = _exported(one, precision, work, options.small)
            alone = _alone(one, path, options.device, options.seconds / 5)
            _say(f"{one.shown} {precision}: ONNX Runtime alone {alone['rows_per_second']:,.0f} rows/s")
            for graphs in (False, True) if options.device.startswith("cuda") else (False,):
                found = _pipeline(one, path, options, card, graphs)
                found = {
                    "model": one.name,
                    "shown": one.shown,
                    "precision": precision,
                    "cuda_graphs": graphs,
                    "alone": alone,
                    **found,
                    "ratio": found["rows_per_second"] / alone["rows_per_second"],
                }
                # A small model on a CPU says nothing about the goals.
                found["missed"] = _missed(found) if card.is_gpu and not options.small else []
                document["measured"].append(found)
                _say(_line(found))
    return document


def _exported(one: Work, precision: str, work: Path, small: bool) -> Path:
    """The model's file, made where it is not there yet."""
    size = "small" if small else "full"
    path = work / f"{one.name}-{size}-fp32.onnx"
    if not path.exists():
        _say(f"exporting {one.shown}")
        import torch

        torch.manual_seed(_SEED)
        export_onnx(one.build(), {"x": one.sample(2)}, path, outputs=["y"], rtol=1e-3, atol=1e-4)
    if precision == "fp32":
        return path
    half = work / f"{one.name}-{size}-fp16.onnx"
    if not half.exists():
        to_fp16(path, half, external=False)
    return half


def _alone(one: Work, path: Path, device: str, seconds: float) -> dict[str, Any]:
    """ONNX Runtime's own call on rows in memory, one thread, at each batch size: the best of them."""
    signature = signature_of(path)
    kind, _, number = device.partition(":")
    if kind == "cpu":
        session = open_on_cpu(path, session_options(1, signature))
    else:
        session, bound, _ = open_on_gpu(path, signature, kind, int(number or 0), DeviceOptions())
        bound.close()
    plain = PlainRunner(session, signature)
    name, by_rows = signature.inputs[0].name, {}
    for rows in device_buckets(BatchLimits(max_rows=one.max_rows)):
        inputs = {name: one.sample(rows)}
        plain.run(inputs)
        plain.run(inputs)
        count, began = 0, time.perf_counter()
        while (took := time.perf_counter() - began) < seconds or count < 3:
            plain.run(inputs)
            count += 1
        by_rows[rows] = rows * count / took
    best = max(by_rows, key=by_rows.__getitem__)
    return {"rows_per_second": by_rows[best], "rows": best, "by_rows": {str(k): round(v) for k, v in by_rows.items()}}


def _pipeline(one: Work, path: Path, options: argparse.Namespace, card: Card, graphs: bool) -> dict[str, Any]:
    limits = BatchLimits(max_rows=one.max_rows, max_run=0.02)
    signature = signature_of(path)
    began = time.perf_counter()
    model = _loaded(one, path, signature, limits, options.device, DeviceOptions(graphs=graphs))
    ready = time.perf_counter() - began
    name = signature.inputs[0].name
    pool = {name: one.sample(2 * one.max_rows)}
    gap = _gap(model, path, signature, {name: pool[name][:4]})
    try:
        with Pipeline(model, pool, limits, DeviceOptions().runs) as pipeline:
            full, part = Watch(card), Watch(card)
            backlog = pipeline.backlog(options.seconds, one.block, full)
            load = pipeline.steady(LOAD * backlog["rows_per_second"], options.seconds, part)
    finally:
        runner = model.session._runner
        captured = len(runner.graphs) if isinstance(runner, BoundRunner) else 0
        model.close()
    return {
        "device": options.device if card.is_gpu else "cpu",
        "ready_seconds": ready,
        "captured": captured,
        "difference_from_cpu": gap,
        "rows_per_second": backlog["rows_per_second"],
        "rows_per_batch": backlog["rows_per_batch"],
        "utilization": full.mean,
        "load_rows_per_second": load["rows_per_second"],
        "load_rows_per_batch": load["rows_per_batch"],
        "load_p50_ms": load["p50_ms"],
        "load_p99_ms": load["p99_ms"],
        "load_utilization": part.mean,
    }


def _loaded(
    one: Work, path: Path, signature: Signature, limits: BatchLimits, device: str, options: DeviceOptions
) -> LoadedModel:
    """The model as a worker loads it; on a CPU bound to the host's memory, so that the same code runs."""
    with tempfile.TemporaryDirectory() as folder:
        store = ModelStore(Path(folder))
        store.add_onnx(one.name, "1", path, signature, limits)
        if device != "cpu":
            return LoadedModel.load(store, one.name, "1", device, options=options)
        session = open_on_cpu(path, session_options(1, signature))
        runner = BoundRunner(session, signature, HostMemory(), runs=options.runs)
        return LoadedModel(store.manifest(one.name, "1"), Session(session, signature, "cpu", "bound", runner))


def _gap(model: LoadedModel, path: Path, signature: Signature, inputs: Mapping[str, Array]) -> float:
    """The largest difference from the CPU's answer, which computes FP16 in FP32."""
    plain = Session.open(path, signature, "cpu")
    expected, (got,) = plain.run(inputs), model.run([inputs])
    plain.close()
    gap = max(float(np.abs(got[name].astype(np.float64) - array).max()) for name, array in expected.items())
    if not np.isfinite(gap):
        raise PipelineError(f"{path.name}: the answers are no numbers")
    return gap


def _with_broker(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """The MLP through a worker's process and Kafka: `penstock bench stream` on this device."""
    from penstock.bench.bed import Bed
    from penstock.bench.stream import run_stream
    from penstock.settings import load

    one = works(options.small)[0]
    store = ModelStore(work / "store")
    if one.name not in store.names():
        path = _exported(one, "fp32", work, options.small)
        store.add_onnx(one.name, "1", path, signature_of(path), BatchLimits(max_rows=one.max_rows, max_run=0.02))
    settings = load(None, stack=False)
    device = options.device.partition(":")[0]
    models = settings.models.model_copy(update={"store": str(store.root), "device": device})
    with Bed(settings.model_copy(update={"models": models}), options.broker, one.name, say=_say) as bed:
        return run_stream(bed, 20_000 if options.small else 200_000, 3, "exactly-once", 1, _say)


def _missed(found: Mapping[str, Any]) -> list[str]:
    """The goals that were missed; a figure that is not there missed its goal too."""
    lines = []
    for key, shown, limit, at_least in GOALS:
        value = found[key]
        if value is None or (value < limit if at_least else value >= limit):
            lines.append(f"{shown}: {'not measured' if value is None else f'{value:.2f}'}, goal {limit:g}")
    return lines


def _line(found: Mapping[str, Any]) -> str:
    busy = "" if found["utilization"] is None else f", busy {found['utilization']:.0%}"
    graphs = ", CUDA graphs" if found["cuda_graphs"] else ""
    return (
        f"  {found['shown']} {found['precision']}{graphs}: {found['rows_per_second']:,.0f} rows/s, "
        f"{found['ratio']:.2f} of ONNX Runtime alone{busy}; p99 at 70%: {found['load_p99_ms']:.1f} ms"
        + "".join(f"; MISSED {line}" for line in found["missed"])
    )


def _write(document: Mapping[str, Any], folder: Path) -> Path:
    machine = document["machine"]
    name = re.sub(r"[^a-z0-9]+", "-", machine["name"].lower()).strip("-") if document["is_gpu_figure"] else "cpu"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{machine['date'][:10]}-gpu-{name}.json"
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
    path.with_suffix(".md").write_text(table(document), "utf-8")
    return path


def table(document: Mapping[str, Any]) -> str:
    """The document for people, in Markdown."""
    machine = document["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    driver = f", driver {machine['driver']}" if "driver" in machine else ""
    lines = [f"# {machine['name']}", "", f"{machine['date'][:10]}{driver}; {versions}.", ""]
    if not document["is_gpu_figure"]:
        lines += ["**Measured on a CPU, to try the benchmark out: nothing here says anything about a GPU.**", ""]
    lines += [
        "| model | precision | CUDA graphs | alone, rows/s (batch) | pipeline, rows/s | of alone | busy | "
        "p99 at 70% | busy at 70% |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in document["measured"]:
        shares = ["" if one[key] is None else f"{one[key]:.0%}" for key in ("utilization", "load_utilization")]
        graphs = f"{one['captured']}" if one["cuda_graphs"] else "off"
        lines.append(
            f"| {one['shown']} | {one['precision']} | {graphs} | {one['alone']['rows_per_second']:,.0f} "
            f"({one['alone']['rows']}) | {one['rows_per_second']:,.0f} | {one['ratio']:.2f} | {shares[0]} | "
            f"{one['load_p99_ms']:.1f} ms | {shares[1]} |"
        )
    return "\n".join(lines) + "\n"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
