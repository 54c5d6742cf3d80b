"""Makes a smaller version of a model, INT8 or FP16, and measures it against the original on real rows.

Needs the packages of the extra `train` (onnx). A version that does not agree with its original is not made.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from models.agreement import Agreement, agreement_of
from models.errors import ArtifactError, ModelError
from models.loading import LoadedModel
from models.manifest import CANDIDATE, FileEntry, Manifest
from models.session import Session
from models.signature import Signature
from schemas.tensors import Array

Method = Literal["int8-dynamic", "int8-static", "fp16"]
METHODS: Final[tuple[Method, ...]] = ("int8-dynamic", "int8-static", "fp16")
DEFAULT_AGREEMENT: Final = 0.99
_ROWS: Final = 256
# Rows that ranges are calibrated on; more take longer and hardly move a range.
_CALIBRATION_ROWS: Final = 1024
_PASSES: Final = 7
# A protobuf takes 2 GB; from here on weights go beside it.
_EXTERNAL_BYTES: Final = 1_500_000_000
_FILE: Final = "model.onnx"


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows to measure on: checked inputs by name, `labels` [rows] where they are known, and where they are from."""

    inputs: Mapping[str, Array]
    rows: int
    labels: Array | None = None
    source: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """The smaller version beside its original: bytes, seconds a row (the quickest of several passes), agreement."""

    method: Method
    bytes_before: int
    bytes_after: int
    seconds_before: float
    seconds_after: float
    agreement: Agreement

    @property
    def speedup(self) -> float:
        """How many times as fast; below 1 it is slower."""
        return self.seconds_before / self.seconds_after

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        own = {name: value for name, value in asdict(self).items() if name != "agreement"}
        return {**own, "speedup": self.speedup, **self.agreement.to_json()}


def quantized(
    model: Path,
    manifest: Manifest,
    version: str,
    method: Method,
    sample: Sample,
    folder: Path,
    *,
    least: float = DEFAULT_AGREEMENT,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Manifest, Measured]:
    """Write the smaller model into an empty folder, and return its manifest, a candidate's, and what was measured.

    `model`: the original's ONNX file. `device`: what both are measured on; a CPU computes FP16 nodes in FP32, so that
    there the rounding of weights shows and the range of FP16 does not. Raises `ArtifactError` where it cannot be
    converted, the result does not load, or its agreement with the original on the sample is below `least`.
    """
    if not sample.rows:
        raise ArtifactError("the sample has no rows that the model takes")
    before_bytes = _bytes(model)
    _convert(model, folder / _FILE, method, sample, manifest.signature, before_bytes > _EXTERNAL_BYTES)
    files = tuple(FileEntry.of(folder, one.name) for one in sorted(folder.iterdir()))
    smaller = replace(manifest, version=version, files=files, entrypoint=_FILE, stage=CANDIDATE, fallback="")
    original = LoadedModel(manifest, Session.open(model, manifest.signature, device))
    try:
        new = LoadedModel(smaller, Session.open(folder / _FILE, manifest.signature, device))
    except ModelError as error:
        raise ArtifactError(f"the {method} version does not serve: {error}") from error
    before, after = (_outputs(one, sample) for one in (original, new))
    agreement = agreement_of(manifest.signature, before, after, sample.rows, sample.labels)
    seconds = _seconds([original, new], sample, clock)
    measured = Measured(method, before_bytes, _bytes(folder / _FILE), seconds[0], seconds[1], agreement)
    if not agreement.agreement >= least:
        raise ArtifactError(
            f"the {method} version agrees with version {manifest.version} by {agreement.agreement:.4f} on "
            f"{sample.rows:,} rows (mean difference {agreement.mean_abs:.3g}, largest {agreement.max_abs:.3g}), "
            f"less than {least:g}; nothing was registered (--agreement allows less)"
        )
    import onnxruntime

    # Seconds differ from run to run: they are reported, and not part of what the version is.
    figures = {name: value for name, value in measured.to_json().items() if "seconds" not in name and name != "speedup"}
    lineage = {
        **manifest.lineage,
        "quantized": {
            "from": manifest.version,
            "method": method,
            "onnxruntime": onnxruntime.__version__,
            "sample": {**(sample.source or {}), "rows": sample.rows},
        },
    }
    return replace(smaller, lineage=lineage, metrics={**manifest.metrics, "quantization": figures}), measured


def _bytes(model: Path) -> int:
    """Of the ONNX file and the weights beside it; a version may have other files."""
    try:
        import onnx
        from onnx.external_data_helper import uses_external_data
    except ImportError as error:
        raise ArtifactError(f"quantizing needs the extra `train` (onnx): {error}") from None

    try:
        tensors = onnx.load(str(model), load_external_data=False).graph.initializer
    except Exception as error:
        raise ArtifactError(f"{model}: it is no ONNX file: {' '.join(str(error).split())[:200]}") from error
    beside: set[str] = {
        item.value for one in tensors if uses_external_data(one) for item in one.external_data if item.key == "location"
    }
    return model.stat().st_size + sum((model.parent / one).stat().st_size for one in beside)


def _convert(model: Path, target: Path, method: Method, sample: Sample, signature: Signature, external: bool) -> None:
    try:
        with _quiet():
            if method == "fp16":
                to_fp16(model, target, external)
            elif method == "int8-static":
                _to_static_int8(model, target, sample, signature, external)
            else:
                from onnxruntime.quantization import QuantType, quantize_dynamic

                # Weights in 7 bits: products of 8-bit ones saturate on processors without VNNI.
                quantize_dynamic(
                    model, target, weight_type=QuantType.QInt8, reduce_range=True, use_external_data_format=external
                )
    except ImportError as error:
        raise ArtifactError(f"quantizing needs the extra `train` (onnx): {error}") from None
    except Exception as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise ArtifactError(f"{model}: it cannot be converted to {method}: {said}") from error


def to_fp16(model: Path, target: Path, external: bool) -> None:
    """Weights and arithmetic in FP16; inputs and outputs stay as they are, so that callers notice nothing."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    # By path: the shapes of a model over 2 GB cannot be inferred in memory.
    converted = convert_float_to_float16(str(model), keep_io_types=True)
    onnx.save(
        converted, str(target), save_as_external_data=external, location=f"{target.name}.data" if external else None
    )


def _to_static_int8(model: Path, target: Path, sample: Sample, signature: Signature, external: bool) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    rows = signature.fixed_rows or _ROWS
    batches = (
        {name: array[at : at + rows] for name, array in sample.inputs.items()}
        for at in range(0, min(sample.rows, _CALIBRATION_ROWS) // rows * rows or rows, rows)
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Array] | None:
            return next(batches, None)

    quantize_static(
        model,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        use_external_data_format=external,
    )


def _batches(sample: Sample) -> Iterator[tuple[dict[str, Array], int]]:
    for at in range(0, sample.rows, _ROWS):
        rows = min(_ROWS, sample.rows - at)
        yield {name: array[at : at + rows] for name, array in sample.inputs.items()}, rows


def _outputs(model: LoadedModel, sample: Sample) -> dict[str, Array]:
    parts = [model.run_merged(inputs, rows) for inputs, rows in _batches(sample)]
    return {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}


def _seconds(models: list[LoadedModel], sample: Sample, clock: Callable[[], float]) -> list[float]:
    """Seconds a row of each model in its quickest pass: what else the machine does only adds to one."""
    times: list[list[float]] = [[] for _ in models]
    for _ in range(_PASSES):
        for own, model in zip(times, models, strict=True):
            began = clock()
            for inputs, rows in _batches(sample):
                model.run_merged(inputs, rows)
            own.append((clock() - began) / sample.rows)
    return [min(own) for own in times]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the converters advise and warn of: of their own deprecated calls, and of steps not needed here."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
