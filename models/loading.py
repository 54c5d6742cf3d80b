"""A version from the store to a model that may serve: checked, opened, compared with its signature and warmed up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Final

import numpy as np

from models.batching import device_buckets, warm_up_is_enough, warm_up_rows
from models.device_options import DEFAULT_OPTIONS, DeviceOptions
from models.errors import ArtifactError, DeviceLostError, DeviceOutOfMemoryError, InferenceError
from models.manifest import Manifest
from models.padding import Merged, fill_in, merge, padded_rows, shapes_of, split
from models.profile_bins import FeatureBins
from models.session import DATATYPES, Declared, Session
from models.signature import Signature
from models.specs import ANY, TensorSpec
from models.store import Store
from schemas.tensors import Array, datatype_of

_EXTENTS: Final = (1, 8, 32, 224)
_FILLS: Final = ((0.0, ""), (1.0, "0"))


class LoadedModel:
    """A model that has passed its checks and its warm-up.

    `warm_up`: (rows, seconds) of a warm run of each size. `fits`: the most rows that fitted into the device's memory
    while it was warmed up; None where none ran out. `stranded`: it is on the CPU because its device was lost.
    """

    def __init__(self, manifest: Manifest, session: Session, clock: Callable[[], float] = time.perf_counter) -> None:
        """Compare and warm up.

        Raises `ArtifactError` where session and signature disagree, `InferenceError` where the model fails on samples.
        """
        self.manifest = manifest
        self.session = session
        self.signature = manifest.signature
        self.name, self.version = manifest.name, manifest.version
        self.feature_bins = FeatureBins(manifest.profile, manifest.signature)
        self._what = f"model {manifest.name} {manifest.version}"
        limits = manifest.batching
        # On a GPU a size that was not seen before costs far more than padding to one that was.
        self._given = bool(limits.buckets) or not session.wants_buckets
        self._buckets = limits.buckets if self._given else device_buckets(limits)
        self._staged = session.stages and manifest.signature.fixed_rows is None
        compare(manifest, session.inputs, session.outputs)
        self.fits: int | None = None
        self.stranded = False
        self._sample: dict[str, Array] = {}
        self.warm_up: list[tuple[int, float]] = self._warm(clock)

    @classmethod
    def load(
        cls,
        store: Store,
        name: str,
        version: str,
        device: str = "auto",
        threads: int = 1,
        clock: Callable[[], float] = time.perf_counter,
        options: DeviceOptions = DEFAULT_OPTIONS,
    ) -> LoadedModel:
        """Verify, open, compare, warm up, in this order; what is returned may serve. Raises `ModelError`."""
        manifest = store.manifest(name, version)
        buckets = manifest.batching.buckets
        if buckets:
            options = replace(options, rows=(buckets[0], buckets[-1]))
        session = Session.open(store.artifact(name, version), manifest.signature, device, threads, options)
        try:
            return cls(manifest, session, clock)
        except BaseException:
            session.close()
            raise

    @property
    def device(self) -> str:
        """Where it runs: "cpu", "cuda:0" or "tensorrt:0"."""
        return self.session.device

    def run(self, parts: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
        """Inputs of each part, checked before, to outputs of each part, in one batch. Raises `InferenceError`."""
        if not parts:
            return []
        if self._staged:
            # Straight into the buffers that the device copies from.
            merged = merge(parts, self.signature, self._buckets, write=False)
            outputs = self.session.run_filled(
                shapes_of(merged, parts, self.signature),
                lambda buffers: fill_in(buffers, parts, merged, self.signature),
            )
            return split(outputs, merged, self.signature)
        merged = merge(parts, self.signature, self._buckets)
        return split(self._execute(merged), merged, self.signature)

    def run_merged(self, inputs: Mapping[str, Array], rows: int) -> dict[str, Array]:
        """The same for arrays of `rows` rows that were checked and put together already."""
        merged = merge((inputs,), self.signature, self._buckets)
        if merged.rows != rows:
            raise InferenceError(f"{self._what}: expected inputs of {rows} rows, got {merged.rows}")
        return split(self._execute(merged), merged, self.signature)[0]

    def probe(self) -> None:
        """Run a sample of the smallest size. Raises `InferenceError` where it fails: then no sender is to blame."""
        self.run([self._sample])

    def padded_rows(self, rows: int) -> int:
        """Rows the model really runs on for a batch of `rows`."""
        return padded_rows(rows, self.signature, self._buckets)

    def close(self) -> None:
        """Give back the device's memory."""
        self.session.close()

    def _execute(self, merged: Merged) -> dict[str, Array]:
        fixed = self.signature.fixed_rows
        if fixed is None or merged.padded_rows == fixed:
            return self.session.run(merged.inputs)
        runs = [
            self.session.run({name: array[at : at + fixed] for name, array in merged.inputs.items()})
            for at in range(0, merged.padded_rows, fixed)
        ]
        return {name: np.concatenate([one[name] for one in runs]) for name in runs[0]}

    def _warm(self, clock: Callable[[], float]) -> list[tuple[int, float]]:
        limits, fixed = self.manifest.batching, self.signature.fixed_rows
        sizes = (fixed,) if fixed else warm_up_rows(limits) if self._given else self._buckets
        timings: list[tuple[int, float]] = []
        try:
            suited = self._suited(sizes[0])
            for rows in sizes:
                seconds = 0.0
                try:
                    for extents in _axis_sizes(self.signature):
                        inputs = {one.name: one.sample(rows, *suited, extents) for one in self.signature.inputs}
                        # The first run pays for memory and kernels; the second is what requests will see.
                        self._check_outputs(self.run_merged(inputs, rows), rows)
                        self._sample = self._sample or inputs
                        self.session.prepare(inputs)
                        start = clock()
                        self.run_merged(inputs, rows)
                        seconds = clock() - start
                except DeviceOutOfMemoryError:
                    if not timings:
                        raise
                    self.fits = timings[-1][0]
                    break
                timings.append((rows, seconds))
                # Larger ones would be cut by the policy: they are spared, and so is their memory.
                if not fixed and warm_up_is_enough(limits, seconds, every=not self._given):
                    break
        except InferenceError as error:
            raise type(error)(f"{self._what} failed its warm-up on {self.device}: {error}") from error
        return timings

    def _suited(self, rows: int) -> tuple[int, float, str]:
        """The first extent, number and text the model takes: not every model runs on a picture of 1 x 1, or on ""."""
        specs = self.signature.inputs
        extents = _EXTENTS if self.signature.ragged else _EXTENTS[:1]
        sizes = _axis_sizes(self.signature)[0]
        first: InferenceError | None = None
        for extent, (fill, text) in product(extents, _FILLS):
            try:
                self.run_merged({one.name: one.sample(rows, extent, fill, text, sizes) for one in specs}, rows)
            except (DeviceLostError, DeviceOutOfMemoryError):
                raise
            except InferenceError as error:
                first = first or error
            else:
                return extent, fill, text
        raise first or InferenceError("it took no sample")

    def _check_outputs(self, outputs: Mapping[str, Array], rows: int) -> None:
        for spec in self.signature.outputs:
            array = outputs[spec.name]
            pairs = zip(array.shape[1:], spec.shape[1:], strict=False)
            fits = array.ndim == len(spec.shape) and all(isinstance(b, str) or b in (a, ANY) for a, b in pairs)
            if datatype_of(array) != spec.datatype or not fits:
                raise ArtifactError(
                    f"{self._what}: output {spec.name!r} is {spec.datatype} {spec.shown_shape()} in its signature, "
                    f"the model gave {datatype_of(array)} {list(array.shape)} for {rows} rows"
                )
        self.signature.scores(outputs, rows)


def compare(manifest: Manifest, inputs: Declared, outputs: Declared) -> None:
    """Hold a signature against what the ONNX file declares. Raises `ArtifactError`."""
    what = f"model {manifest.name} {manifest.version}"
    declared = {name: (kind, shape) for name, kind, shape in inputs}
    named = {one.name for one in manifest.signature.inputs}
    if set(declared) != named:
        raise ArtifactError(
            f"{what}: its signature has the inputs {', '.join(sorted(named))}, "
            f"its ONNX file {', '.join(sorted(declared))}"
        )
    for spec in manifest.signature.inputs:
        _compare_one(what, "input", spec, *declared[spec.name])
    declared = {name: (kind, shape) for name, kind, shape in outputs}
    for spec in manifest.signature.outputs:
        if spec.name not in declared:
            raise ArtifactError(f"{what}: its ONNX file has no output {spec.name!r}; it has {list(declared)}")
        _compare_one(what, "output", spec, *declared[spec.name])


def _compare_one(what: str, side: str, spec: TensorSpec, kind: str, shape: tuple[int | str | None, ...]) -> None:
    fits = not shape or (
        len(shape) == len(spec.shape)
        # What the file fixes the signature must fix too; on an output the warm-up will tell.
        and all(not isinstance(one, int) or one in (want, ANY) for one, want in zip(shape, spec.shape, strict=True))
    )
    if DATATYPES.get(kind) != spec.datatype or (side == "input" and not fits):
        raise ArtifactError(
            f"{what}: {side} {spec.name!r} is {spec.datatype} {list(spec.shape)} in its signature, "
            f"{kind} {list(shape)} in its ONNX file"
        )


def _axis_sizes(signature: Signature) -> list[dict[str, int]]:
    """What to warm up inner axes with: their first buckets, their second ones, and so on; once where there are none."""
    most = max((len(one.extents) for one in signature.axes), default=0)
    return [
        {one.axis: one.extents[min(at, len(one.extents) - 1)] for one in signature.axes if one.extents}
        for at in range(most or 1)
    ]
