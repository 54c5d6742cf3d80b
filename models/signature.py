"""What a model takes and gives, and the gate in front of it: what does not fit the signature reaches no batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from models.errors import InferenceError, InvalidInputError, ManifestError, SignatureError, shown
from models.features import Assembler
from models.fields import Fields
from models.specs import ANY, Assembled, AxisBuckets, FeatureSpec, Score, TensorSpec
from schemas.records import FeatureValue, Tensor
from schemas.tensors import BYTES, Array, TensorError, datatype_of, from_tensor

__all__ = [
    "Assembled",
    "AxisBuckets",
    "FeatureSpec",
    "InvalidInputError",
    "Score",
    "Signature",
    "SignatureError",
    "TensorSpec",
]

_SMALL: Final = 4096  # elements up to which searching bytes beats numpy's reduction


@dataclass(frozen=True, slots=True)
class Signature:
    """A model's inputs and outputs; how named features become inputs; which output is the score.

    `allow_nan` lets NaN and infinity through. `axes` sets what dynamic inner axes are padded to. `fixed_rows` is the
    only number of rows the model runs on, where it has one; `ragged` names the dynamic inner axes of each input as
    (axis, symbol). Raises `SignatureError` where the parts contradict each other.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    features: tuple[FeatureSpec, ...] = ()
    score: Score | None = None
    allow_nan: bool = False
    axes: tuple[AxisBuckets, ...] = ()
    fixed_rows: int | None = field(init=False, repr=False, compare=False)
    ragged: Mapping[str, tuple[tuple[int, str], ...]] = field(init=False, repr=False, compare=False)
    _by_name: dict[str, TensorSpec] = field(init=False, repr=False, compare=False)
    _assembler: Assembler | None = field(init=False, repr=False, compare=False)
    _nan_columns: dict[str, Array] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        for kind, specs in (("input", self.inputs), ("output", self.outputs)):
            if not specs:
                raise SignatureError(f"a model needs an {kind}")
            if len({one.name for one in specs}) != len(specs):
                raise SignatureError(f"two {kind}s have the same name")
        put("_by_name", {one.name: one for one in self.inputs})
        put("fixed_rows", self._rows_of_a_run())
        # An axis without a symbol is its own: no other axis has its extent.
        ragged = {
            one.name: tuple(
                (axis, extent if isinstance(extent, str) else f"axis {axis} of input {one.name!r}")
                for axis, extent in enumerate(one.shape)
                if axis and (isinstance(extent, str) or extent == ANY)
            )
            for one in self.inputs
        }
        put("ragged", {name: axes for name, axes in ragged.items() if axes})
        symbols = {symbol for axes in self.ragged.values() for _, symbol in axes}
        for one in self.axes:
            if one.axis not in symbols:
                raise SignatureError(f"axis {one.axis!r} has buckets, but no input has it as an inner axis")
        put("_assembler", Assembler(self.inputs, self.features, self.allow_nan) if self.features else None)
        nan_columns: dict[str, Array] = {}
        for column in self._assembler.columns if self._assembler else ():
            if column.nan_passes and column.dtype.kind == "f":
                at = 0 if column.spec.index is None else column.spec.index
                nan_columns[column.spec.input] = np.append(nan_columns.get(column.spec.input, np.empty(0, np.intp)), at)
        put("_nan_columns", nan_columns)
        self._check_score()

    def _rows_of_a_run(self) -> int | None:
        rows = {one.rows for one in self.inputs}
        if len(rows) > 1:
            raise SignatureError(f"inputs fix different numbers of rows: {[list(one.shape) for one in self.inputs]}")
        firsts = {one.shape[0] for one in self.inputs if isinstance(one.shape[0], str)}
        for one in (*self.inputs, *self.outputs):
            if firsts.intersection(one.shape[1:]):
                raise SignatureError(
                    f"tensor {one.name!r} {list(one.shape)} has the rows on an inner axis: no batching"
                )
        return rows.pop()

    def _check_score(self) -> None:
        if self.score is None:
            return
        outputs = {one.name: one for one in self.outputs}
        output = outputs.get(self.score.output)
        if output is None or output.datatype == BYTES:
            raise SignatureError(f"score: {self.score.output!r} is not an output of numbers")
        width = None if output.inner is None else output.row_items
        index = self.score.index
        if index is not None and (index < 0 or (width is not None and index >= width)):
            raise SignatureError(f"score: output {output.name!r} {output.shown_shape()} has no element {index} a row")
        if index is None and width is not None and width != 1:
            raise SignatureError(f"score: output {output.name!r} {output.shown_shape()} needs an index: {width} a row")

    def check(self, tensors: Sequence[Tensor]) -> dict[str, Array]:
        """One request's tensors as arrays [n, ...] with one n >= 1 for all. Raises `InvalidInputError`."""
        arrays: dict[str, Array] = {}
        rows = 0
        for tensor in tensors:
            name, shape = tensor.name, tensor.shape
            spec = self._by_name.get(name)
            if spec is None or name in arrays:
                raise self._unwanted(name, name in arrays)
            dtype = spec.dtype
            if tensor.datatype != spec.datatype:
                raise InvalidInputError(f"input {name!r}", spec.datatype, shown(tensor.datatype).strip("'\""))
            if shape[1:] != spec.inner or not shape:
                self._check_shape(spec, shape)
            if spec.datatype != BYTES and len(tensor.data) == math.prod(shape) * dtype.itemsize:
                array = np.frombuffer(tensor.data, dtype).reshape(shape)
            else:
                array = self._slow_array(spec, tensor)
            if dtype.kind == "f" and not self.allow_nan:
                # Searching a few bytes is three times as fast as numpy's reduction.
                finite = np.isfinite(array)
                if not (b"\0" not in finite.tobytes() if array.size <= _SMALL else finite.all()):
                    self._check_finite(name, array)
            elif dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
                raise InvalidInputError(f"input {name!r}", "bytes 0 or 1 for BOOL", f"{array.view(np.uint8).max()}")
            if rows == 0 or shape[0] != rows:
                self._check_rows(name, shape[0], rows, arrays)
                rows = shape[0]
            arrays[name] = array
        if len(arrays) != len(self._by_name):
            raise self._missing(arrays)
        if self.ragged:
            self._check_symbols(arrays)
        return arrays

    def check_arrays(self, arrays: Mapping[str, Array]) -> None:
        """The checks of `check`, except for NaN, on arrays that are there already. Raises `InvalidInputError`."""
        rows = 0
        for name, array in arrays.items():
            spec = self._by_name.get(name)
            if spec is None:
                raise self._unwanted(name, False)
            if spec.datatype == BYTES:
                if array.dtype.kind not in "OU":
                    raise InvalidInputError(f"input {name!r}", BYTES, str(array.dtype))
                if array.dtype.kind == "O" and not set(map(type, array.ravel().tolist())) <= {str}:
                    odd = next(one for one in array.ravel().tolist() if type(one) is not str)
                    raise InvalidInputError(f"input {name!r}", "strings", shown(odd))
            elif array.dtype != spec.dtype:
                raise InvalidInputError(f"input {name!r}", spec.datatype, _datatype(array))
            self._check_shape(spec, array.shape)
            self._check_rows(name, array.shape[0], rows, arrays)
            rows = array.shape[0]
        if len(arrays) != len(self._by_name):
            raise self._missing(arrays)
        self._check_symbols(arrays)

    def nan_rows(self, arrays: Mapping[str, Array]) -> Array:
        """bool [n]: rows that carry NaN or infinity where the signature forbids it."""
        rows = len(next(iter(arrays.values())))
        found = np.zeros(rows, bool)
        if self.allow_nan:
            return found
        for name, array in arrays.items():
            if array.dtype.kind == "f":
                bad = self._forbidden(name, array)
                if bad is not None:
                    found |= bad.reshape(rows, -1).any(axis=1)
        return found

    def assemble(self, rows: Sequence[Mapping[str, FeatureValue]]) -> Assembled:
        """Named features, one mapping a row, as inputs of the good rows. Raises `InvalidInputError`."""
        return self._features().rows(rows)

    def assemble_columns(self, columns: Mapping[str, Array], rows: int) -> Assembled:
        """The same for one array [rows] a feature. Raises `InvalidInputError` for a column that is missing or extra."""
        return self._features().by_column(columns, rows)

    def scores(self, outputs: Mapping[str, Array], rows: int) -> Array:
        """The score of each row, float64 [rows]; NaN where the signature defines none."""
        if self.score is None or rows == 0:
            return np.full(rows, np.nan)
        flat = outputs[self.score.output].reshape(rows, -1)
        index = self.score.index or 0
        if index >= flat.shape[1] or (self.score.index is None and flat.shape[1] != 1):
            raise InferenceError(
                f"output {self.score.output!r} has {flat.shape[1]} elements a row, so no score {index}"
            )
        return flat[:, index].astype(np.float64)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads; what has its default is left out."""
        out: dict[str, Any] = {
            "inputs": [one.to_json() for one in self.inputs],
            "outputs": [one.to_json() for one in self.outputs],
        }
        if self.features:
            out["features"] = [one.to_json() for one in self.features]
        if self.score is not None:
            out["score"] = self.score.to_json()
        if self.allow_nan:
            out["allow_nan"] = True
        if self.axes:
            out["axes"] = [one.to_json() for one in self.axes]
        return out

    @classmethod
    def from_json(cls, value: object, where: str = "signature") -> Signature:
        """A signature from its JSON object. Raises `ManifestError` naming the key."""
        fields = Fields(value, where)
        try:
            result = cls(
                tuple(TensorSpec.read(one) for one in fields.children("inputs")),
                tuple(TensorSpec.read(one) for one in fields.children("outputs")),
                tuple(FeatureSpec.read(one) for one in fields.children("features", ())),
                None
                if fields.raw("score", None) is None
                else Score.read(Fields(fields.raw("score"), f"{where}.score")),
                fields.flag("allow_nan", False),
                tuple(AxisBuckets.read(one) for one in fields.children("axes", ())),
            )
        except SignatureError as error:
            raise ManifestError(f"{where}: {error}") from None
        fields.done()
        return result

    def _features(self) -> Assembler:
        if self._assembler is None:
            names = ", ".join(f"{one.name} {one.datatype} {one.shown_shape()}" for one in self.inputs)
            raise InvalidInputError("features", f"tensors ({names}): the model names no features", "named features")
        return self._assembler

    def _check_shape(self, spec: TensorSpec, shape: tuple[int, ...]) -> None:
        if len(shape) == len(spec.shape) and min(shape) >= 0:
            pairs = zip(spec.shape[1:], shape[1:], strict=True)
            if all(isinstance(want, str) or want in (ANY, got) for want, got in pairs):
                return
        raise InvalidInputError(f"input {spec.name!r}", f"shape {spec.shown_shape()}", str(list(shape)))

    def _check_rows(self, name: str, rows: int, before: int, arrays: Mapping[str, Array]) -> None:
        if rows < 1:
            raise InvalidInputError(f"input {name!r}", "1 row or more", f"{rows} rows")
        if before and rows != before:
            raise InvalidInputError(f"input {name!r}", f"{before} rows as in {next(iter(arrays))!r}", f"{rows} rows")

    def _check_symbols(self, arrays: Mapping[str, Array]) -> None:
        seen: dict[str, tuple[int, str]] = {}
        for name, axes in self.ragged.items():
            for axis, symbol in axes:
                extent = arrays[name].shape[axis]
                want, first = seen.setdefault(symbol, (extent, name))
                if extent != want:
                    raise InvalidInputError(f"input {name!r}", f"{symbol} = {want} as in {first!r}", f"{extent}")

    def _forbidden(self, name: str, array: Array) -> Array | None:
        """Elements that must not be what they are, or None."""
        finite = np.isfinite(array)
        if finite.all():
            return None
        bad = ~finite
        allowed = self._nan_columns.get(name)
        if allowed is not None:
            # A view with the columns on an axis of their own, also where the input is [rows].
            bad.reshape(len(bad), -1)[:, allowed] &= ~np.isnan(array.reshape(len(bad), -1)[:, allowed])
        return bad

    def _check_finite(self, name: str, array: Array) -> None:
        bad = self._forbidden(name, array)
        if bad is not None and bad.any():
            at = tuple(int(one) for one in np.argwhere(bad)[0])
            got = "NaN" if np.isnan(array[at]) else "infinity"
            raise InvalidInputError(f"input {name!r}", "finite numbers", f"{got} at {list(at)}")

    def _slow_array(self, spec: TensorSpec, tensor: Tensor) -> Array:
        try:
            return from_tensor(tensor)
        except TensorError as error:
            expected = f"data that fills {spec.datatype} {list(tensor.shape)}"
            raise InvalidInputError(f"input {spec.name!r}", expected, f"{len(tensor.data)} bytes: {error}") from None

    def _unwanted(self, name: str, twice: bool) -> InvalidInputError:
        names = ", ".join(one.name for one in self.inputs)
        return InvalidInputError(f"input {shown(name)}", f"the inputs {names}", "it twice" if twice else "an extra one")

    def _missing(self, arrays: Mapping[str, Array]) -> InvalidInputError:
        spec = next(one for one in self.inputs if one.name not in arrays)
        return InvalidInputError(f"input {spec.name!r}", f"{spec.datatype} {spec.shown_shape()}", "nothing")


def _datatype(array: Array) -> str:
    try:
        return datatype_of(array)
    except TensorError:
        return str(array.dtype)
