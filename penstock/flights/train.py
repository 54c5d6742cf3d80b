"""Trains the two delay models and writes them into a model store: `python -m penstock.flights.train --version 1`.

On one machine, with the packages that a manifest's lineage names, the same files come out byte for byte; elsewhere sums
round differently, and the metrics agree to `TOLERANCE`. Needs the extras `demo` and `train`.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from models.errors import ModelError
from models.manifest import MANIFEST, FileEntry, Manifest
from models.registry import ModelStore
from models.signature import Signature
from penstock.flights.data import LATE_MINUTES, Dataset, dataset
from penstock.flights.evaluation import Sample, performance_of, profile, quality, slices
from penstock.flights.export import WEIGHTS, read_weights, write_onnx, write_weights
from penstock.flights.features import CATEGORIES, NUMERIC, UNITS
from penstock.flights.nets import Perceptron, Preparation, Regression
from penstock.flights.signature import NUMBERS, category_sizes, flight_signature
from penstock.flights.tables import PACKAGE, FlightsDataError, Floats, data_files, data_version

MODEL: Final = "flight-delay"
SEED: Final = 2013
# Between machines, for AUC, log loss and calibration error.
TOLERANCE: Final = 0.003
HOLDOUT: Final = (date(2013, 4, 1), 30)
_ONNX: Final = "model.onnx"
_TAILS: Final = {"recent_delay": 1.0, "precipitation": 100.0}
# Rows whose category is hidden in training, so that "unseen" has learned to mean something.
_HIDDEN_SHARE: Final = 0.02

Net = Regression | Perceptron


@dataclass(frozen=True, slots=True)
class Rows:
    """Flights with an outcome, ready for a network: its inputs in order, labels [n], and where they are in the data."""

    start: date
    days: int
    inputs: tuple[Tensor, ...]
    labels: Floats
    at: np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one version is made."""

    version: str
    kind: str
    start: date
    days: int
    fit: Callable[[Rows, Sequence[int]], Net]


def rows_of(data: Dataset, signature: Signature, start: date, days: int) -> Rows:
    """The flights of these days that have an outcome. Inputs come from the signature, exactly as in serving."""
    span = data.between(start, days)
    labels = data.labels(span)
    at = np.flatnonzero(~np.isnan(labels)) + span.start
    made = signature.assemble_columns({name: values[at] for name, values in data.features.items()}, len(at))
    if made.errors:
        raise FlightsDataError(f"flight {data.flights.request_id[at[min(made.errors)]]}: {min(made.errors.items())[1]}")
    inputs = tuple(torch.from_numpy(made.inputs[name]) for name in (NUMBERS, *CATEGORIES))
    return Rows(start, days, inputs, labels[at - span.start], at)


def preparation(numeric: Tensor) -> Preparation:
    """The input preparation fitted to training rows; with none, one to load weights into."""
    return Preparation(numeric, NUMERIC.index("departure_hour"), [_TAILS.get(name, 0.0) for name in NUMERIC])


def new_regression(numeric: Tensor, sizes: Sequence[int]) -> Regression:
    """Version 1 before training."""
    return Regression(preparation(numeric), sizes)


def new_perceptron(numeric: Tensor, sizes: Sequence[int]) -> Perceptron:
    """Version 2 before training: embeddings no wider than what three months can tell of an airport."""
    widths = {"carrier": 4, "origin": 2, "destination": 4, "day_of_week": 3}
    return Perceptron(preparation(numeric), sizes, [widths[name] for name in CATEGORIES])


def fit_regression(rows: Rows, sizes: Sequence[int], penalty: float = 1e-3) -> Net:
    """The optimum of log loss + penalty * |weights|^2, by L-BFGS over all rows at once."""
    net = new_regression(rows.inputs[0], sizes)
    labels = torch.from_numpy(rows.labels).float()
    weights = [value for name, value in net.named_parameters() if not name.endswith("bias")]
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=300, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = binary_cross_entropy_with_logits(net.logits(*rows.inputs), labels)
        loss = loss + penalty * torch.stack([weight.square().sum() for weight in weights]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return net


def fit_perceptron(
    rows: Rows, sizes: Sequence[int], epochs: int = 3, batch: int = 512, rate: float = 2e-3, decay: float = 0.1
) -> Net:
    """AdamW over one cycle of the learning rate. Few epochs: flights of a day share its weather, so days are few."""
    net = new_perceptron(rows.inputs[0], sizes)
    labels = torch.from_numpy(rows.labels).float()
    steps = len(labels) // batch
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps)
    net.train()
    for _ in range(epochs):
        order = torch.randperm(len(labels))
        for step in range(steps):
            chosen = order[step * batch : (step + 1) * batch]
            numeric, *categories = (values[chosen] for values in rows.inputs)
            hidden = [
                torch.where(torch.rand(batch) < _HIDDEN_SHARE, size - 1, values)
                for size, values in zip(sizes, categories, strict=True)
            ]
            loss = binary_cross_entropy_with_logits(net.logits(numeric, *hidden), labels[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return net


RECIPES: Final = {
    "1": Recipe("1", "logistic regression", date(2013, 1, 1), 31, fit_regression),
    "2": Recipe("2", "multilayer perceptron with embeddings", date(2013, 1, 1), 90, fit_perceptron),
}


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained version: the network in evaluation mode, and its manifest but for the files."""

    recipe: Recipe
    net: Net
    signature: Signature
    metrics: dict[str, Any]
    profile: dict[str, Any]


def train(version: str, data: Dataset | None = None) -> Trained:
    """Train a version (seconds) and measure it on its own days and on April, which no version was fitted to."""
    recipe, data = RECIPES[version], data or dataset()
    signature = flight_signature(data)
    rows = rows_of(data, signature, recipe.start, recipe.days)
    with reproducible(SEED):
        net = recipe.fit(rows, category_sizes(signature))
    return measured(recipe, net, signature, rows, data)


def again(version: str, weights: Path, data: Dataset | None = None) -> Trained:
    """The version as it was trained, from its file of weights, measured and described anew."""
    recipe, data = RECIPES[version], data or dataset()
    signature = flight_signature(data)
    nothing, sizes = torch.empty((0, len(NUMERIC))), category_sizes(signature)
    net: Net = new_regression(nothing, sizes) if version == "1" else new_perceptron(nothing, sizes)
    read_weights(net, weights)
    return measured(recipe, net, signature, rows_of(data, signature, recipe.start, recipe.days), data)


def measured(recipe: Recipe, net: Net, signature: Signature, rows: Rows, data: Dataset) -> Trained:
    """A network, now in evaluation mode, with the figures and the profile of its manifest."""
    net.eval()
    holdout = rows_of(data, signature, *HOLDOUT)
    with reproducible(SEED):
        scores, holdout_scores = probabilities(net, rows), probabilities(net, holdout)
    metrics = {
        "train": {**_days(rows.start, rows.days), **quality(rows.labels, scores)},
        "holdout": {**_days(*HOLDOUT), **quality(holdout.labels, holdout_scores)},
    }
    trained, held = (
        Sample(
            {name: values[some.at] for name, values in data.features.items()},
            some.labels,
            its,
            data.flights.day[some.at],
        )
        for some, its in ((rows, scores), (holdout, holdout_scores))
    )
    words = {one.name: one.vocabulary for one in signature.features if one.vocabulary}
    described = {**_days(rows.start, rows.days), **profile(trained, words)}
    described["performance"] = {**_days(*HOLDOUT), **performance_of(held)}
    described["slices"] = slices(described, trained, held)
    return Trained(recipe, net, signature, metrics, described)


def probabilities(net: nn.Module, rows: Rows) -> Floats:
    """The network's answers [n] as float64."""
    with torch.no_grad():
        return np.asarray(net(*rows.inputs).numpy(), np.float64)


def write(trained: Trained, folder: Path) -> Manifest:
    """Write the ONNX file, the torch weights and the manifest into a folder, and return the manifest."""
    write_onnx(trained.net, trained.signature, folder / _ONNX)
    write_weights(trained.net, folder / WEIGHTS)
    manifest = Manifest(
        MODEL,
        trained.recipe.version,
        tuple(FileEntry.of(folder, name) for name in (_ONNX, WEIGHTS)),
        _ONNX,
        trained.signature,
        metrics=trained.metrics,
        profile=trained.profile,
        lineage=_lineage(trained.recipe),
    )
    manifest.write(folder / MANIFEST)
    return manifest


def _lineage(recipe: Recipe) -> dict[str, Any]:
    import onnx
    import onnxscript

    return {
        "script": "python -m penstock.flights.train",
        "arguments": ["--version", recipe.version],
        "kind": recipe.kind,
        "label": f"arrival more than {LATE_MINUTES} minutes after schedule",
        "units": UNITS,
        "seed": SEED,
        "tolerance": TOLERANCE,
        "data": {
            "package": PACKAGE,
            "version": data_version(),
            "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in data_files()},
        },
        "packages": {
            "torch": torch.__version__.split("+")[0],
            "onnx": onnx.__version__,
            "onnxscript": onnxscript.__version__,
            "numpy": np.__version__,
        },
    }


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """One thread, a fixed seed and deterministic kernels, and all of it as before afterwards."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic)


def _days(start: date, days: int) -> dict[str, str]:
    return {"from": start.isoformat(), "to": (start + timedelta(days=days - 1)).isoformat()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, write, report on stdout. 2 with one line on stderr where it cannot."""
    parser = argparse.ArgumentParser(prog="python -m penstock.flights.train", description="Train a flight-delay model.")
    parser.add_argument("--version", choices=sorted(RECIPES), required=True)
    parser.add_argument("--store", type=Path, default=Path("models/zoo"), help="model store to write into")
    parser.add_argument("--force", action="store_true", help="replace the version where the store has it")
    parser.add_argument("--again", action="store_true", help="keep what was trained; write its manifest anew")
    given = parser.parse_args(arguments)
    target = given.store / MODEL / given.version
    if given.again:
        return _write_manifest_again(given.store, given.version)
    if target.exists() and not given.force:
        print(f"{target} is there already; give --force to replace it, or another --store", file=sys.stderr)
        return 2
    try:
        trained = train(given.version)
        with tempfile.TemporaryDirectory() as made:
            write(trained, Path(made))
            if target.exists():
                shutil.rmtree(target)
            ModelStore(given.store).add(made)
    except (FlightsDataError, ModelError) as error:
        print(error, file=sys.stderr)
        return 2
    _tell(trained)
    return 0


def _write_manifest_again(store: Path, version: str) -> int:
    """Figures and profile come from the weights; files, their checksums and the lineage stay as they are."""
    try:
        manifest = ModelStore(store).manifest(MODEL, version)
        folder = ModelStore(store).artifact(MODEL, version).parent
        trained = again(version, folder / WEIGHTS)
        replace(manifest, metrics=trained.metrics, profile=trained.profile).write(folder / MANIFEST)
    except (FlightsDataError, ModelError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    _tell(trained)
    return 0


def _tell(trained: Trained) -> None:
    for part, figures in trained.metrics.items():
        print(part, " ".join(f"{name}={value}" for name, value in figures.items()))


if __name__ == "__main__":
    sys.exit(main())
