"""Turns named features into model inputs, a column at a time: thousands of rows cost numpy calls, not Python ones.

Each column has one scalar rule (`one`), which is the law and writes the messages, and a fast path (`many`), which
converts the whole column and points at the rows it is unsure of; only those meet the scalar rule.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any, Final

import numpy as np

from models.errors import InvalidInputError, SignatureError, shown
from models.specs import Assembled, FeatureSpec, TensorSpec, fits
from schemas.records import FeatureValue
from schemas.tensors import BYTES, Array

Values = Sequence[FeatureValue] | Array
_UNKNOWN: Final = np.iinfo(np.int64).min
_NAN: Final = float("nan")


class FeatureColumn:
    """How the values of one feature become the elements of its input."""

    def __init__(self, spec: FeatureSpec, tensor: TensorSpec, anything: bool) -> None:
        """`anything`: NaN and infinity pass. Raises `SignatureError` where feature and input contradict each other."""
        self.spec = spec
        self.name = spec.name
        self.dtype = tensor.dtype
        self.datatype = tensor.datatype
        self.nan_passes = anything or spec.allow_nan or not spec.required
        self._infinity_passes = anything
        self._codes = {value: at for at, value in enumerate(spec.vocabulary)}
        self._typecode = {"f": "d", "u": "Q"}.get(self.dtype.kind, "q")
        self._missing: float | int | str | None = None if spec.required else self._fill()
        self._check()

    def _fill(self) -> float | int | str:
        if self.spec.unseen is not None:
            return self.spec.unseen
        if self.datatype == BYTES:
            return ""
        if self.dtype.kind == "f":
            return _NAN
        raise SignatureError(f"feature {self.name!r} may be missing, but {self.datatype} has no NaN: give it `unseen`")

    def _check(self) -> None:
        where = f"feature {self.name!r}"
        if self.datatype == BYTES:
            if self._codes or self.spec.unseen is not None:
                raise SignatureError(f"{where} maps to an index, but input {self.spec.input!r} is text")
            return
        if self.spec.unseen is not None and not fits(self.spec.unseen, self.dtype):
            raise SignatureError(f"{where}: unseen {self.spec.unseen} does not fit {self.datatype}")
        if self._codes and not fits(len(self._codes) - 1, self.dtype):
            raise SignatureError(f"{where}: {len(self._codes)} values do not fit {self.datatype}")

    @property
    def sample(self) -> float | str:
        """A value for a warm-up run."""
        return "" if self.datatype == BYTES else 0

    def convert(self, values: Values, errors: dict[int, str]) -> Array:
        """The column's elements; what is wrong with a row goes to `errors`, where no earlier feature put something."""
        column, unsure = self.many(values)
        for at in unsure.tolist():
            try:
                column[at] = self.one(values[at])
            except InvalidInputError as error:
                errors.setdefault(at, str(error))
        return column

    def one(self, value: Any) -> float | int | str:
        """The element for one value. Raises `InvalidInputError`."""
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or (isinstance(value, float) and math.isnan(value) and self._nan_means_missing):
            if self._missing is None:
                raise self._error("nothing" if value is None else "NaN")
            return self._missing
        if self._codes:
            return self._code(value)
        if self.datatype == BYTES:
            if not isinstance(value, str):
                raise self._error(shown(value))
            return value
        if not isinstance(value, bool | int | float):
            raise self._error(shown(value))
        if isinstance(value, float) and not math.isfinite(value):
            if self.dtype.kind != "f" or not (self.nan_passes if math.isnan(value) else self._infinity_passes):
                raise self._error("NaN" if math.isnan(value) else "infinity")
            return value
        if not self._holds(value):
            raise self._error(shown(value))
        return value

    def many(self, values: Values) -> tuple[Array, Array]:
        """All elements, and the indices of rows that `one` must look at."""
        if self._codes:
            return self._categorical(values)
        if self.datatype == BYTES:
            return self._text(values)
        return self._numeric(values)

    @property
    def _nan_means_missing(self) -> bool:
        # Columns of a file carry their nulls as NaN, so where null is no number, NaN is null.
        return bool(self._codes) or self.datatype == BYTES or (not self.spec.required and self.spec.unseen is not None)

    def _holds(self, value: float) -> bool:
        if self.dtype.kind != "f":
            return fits(value, self.dtype)
        try:
            # Rounded first: 3.4028235677e38 is above the largest FP32 and yet a fair spelling of it.
            with np.errstate(over="ignore"):
                return bool(np.isfinite(self.dtype.type(float(value))))
        except OverflowError:
            return False

    def _code(self, value: Any) -> int:
        if not isinstance(value, str):
            raise self._error(shown(value))
        code = self._codes.get(value, self.spec.unseen)
        if code is None:
            raise self._error(shown(value))
        return code

    def _error(self, got: str) -> InvalidInputError:
        return InvalidInputError(f"feature {self.name!r}", self.expected, got)

    @property
    def expected(self) -> str:
        """What a value must be, for a message."""
        if self._codes:
            if self.spec.unseen is not None:
                return "a string"
            if len(self._codes) > 8:
                return f"one of the {len(self._codes)} values of its vocabulary"
            return f"one of {', '.join(map(repr, self._codes))}"
        if self.datatype == BYTES:
            return "a string"
        if self.dtype.kind == "b":
            return "true or false"
        if self.dtype.kind in "iu":
            info = np.iinfo(self.dtype)
            return f"a whole number from {info.min} to {info.max}"
        return "a number" if self._infinity_passes else f"a finite {self.datatype} number"

    def _categorical(self, values: Values) -> tuple[Array, Array]:
        items = values.tolist() if isinstance(values, np.ndarray) else values
        try:
            codes = np.fromiter(map(self._codes.get, items, repeat(_UNKNOWN)), np.int64, len(items))
        except TypeError:  # something that cannot be hashed is among them
            return np.zeros(len(items), self.dtype), np.arange(len(items))
        return codes.astype(self.dtype), np.flatnonzero(codes == _UNKNOWN)

    def _text(self, values: Values) -> tuple[Array, Array]:
        items = values.tolist() if isinstance(values, np.ndarray) else list(values)
        column = np.empty(len(items), object)
        column[:] = items
        if set(map(type, items)) <= {str}:
            return column, np.empty(0, np.intp)
        return column, np.array([at for at, item in enumerate(items) if type(item) is not str], np.intp)

    def _numeric(self, values: Values) -> tuple[Array, Array]:
        numbers = values if isinstance(values, np.ndarray) and values.dtype.kind in "fiub" else self._numbers(values)
        if numbers is None:
            return np.zeros(len(values), self.dtype), np.arange(len(values))
        with np.errstate(over="ignore", invalid="ignore"):
            column = numbers.astype(self.dtype)
            if self.dtype.kind == "f":
                unsure = ~np.isfinite(column)
                if self.nan_passes and not self._nan_means_missing and unsure.any():
                    unsure &= ~np.isnan(numbers)
            elif self.dtype.kind == "b":
                unsure = (numbers != 0) & (numbers != 1)
            elif numbers.dtype.kind == "f":
                info = np.iinfo(self.dtype)
                numbers = numbers.astype(np.float64, copy=False)  # FP16 does not reach the bounds it is compared with
                # As a float, the largest INT64 rounds up to one too many: compare with the first value outside.
                inside = (numbers >= float(info.min)) & (numbers < float(info.max + 1)) & (numbers == np.floor(numbers))
                unsure = ~inside
            elif numbers.dtype.kind == "b":
                unsure = np.zeros(len(numbers), bool)
            else:
                info = np.iinfo(self.dtype)
                unsure = (numbers < info.min) | (numbers > info.max)
        return column, np.flatnonzero(unsure)

    def _numbers(self, values: Values) -> Array | None:
        """Python values as numbers, or None where there is anything else among them."""
        items = values.tolist() if isinstance(values, np.ndarray) and values.dtype.kind == "O" else values
        if isinstance(items, np.ndarray):
            return None
        if self._missing is not None:
            items = [self._missing if item is None else item for item in items]
        try:
            # Unlike numpy's own conversions, `array` takes no string for a number.
            return np.frombuffer(array(self._typecode, items), self._typecode)
        except (TypeError, OverflowError):
            return None


class Assembler:
    """Named features to model inputs, for one signature."""

    def __init__(self, inputs: Sequence[TensorSpec], features: Sequence[FeatureSpec], anything: bool) -> None:
        """Raises `SignatureError` where features and inputs do not cover each other exactly."""
        tensors = {one.name: one for one in inputs}
        for spec in features:
            if spec.input not in tensors:
                raise SignatureError(f"feature {spec.name!r}: there is no input {spec.input!r}")
        self.columns = tuple(FeatureColumn(one, tensors[one.input], anything) for one in features)
        self._names = frozenset(one.name for one in features)
        if len(self._names) != len(features):
            raise SignatureError("two features have the same name")
        self._of = {name: [one for one in self.columns if one.spec.input == name] for name in tensors}
        self._inputs = tensors
        for name, tensor in tensors.items():
            places = sorted((-1 if one.spec.index is None else one.spec.index) for one in self._of[name])
            wanted = [-1] if tensor.inner == () else list(range(tensor.row_items))
            if tensor.inner is None or len(tensor.inner) > 1 or places != wanted:
                raise SignatureError(
                    f"input {name!r} {tensor.shown_shape()} is not filled by its features: they give columns "
                    f"{[None if at == -1 else at for at in places]}"
                )

    def rows(self, rows: Sequence[Mapping[str, FeatureValue]]) -> Assembled:
        """One mapping a row."""
        errors: dict[int, str] = {}
        values: dict[str, Values] = {}
        complete = True
        for column in self.columns:
            name = column.name
            try:
                values[name] = [row[name] for row in rows]
            except KeyError:
                complete = False
                values[name] = [row.get(name) for row in rows]
        if not complete or set(map(len, rows)) - {len(self.columns)}:
            for at, row in enumerate(rows):
                if not row.keys() <= self._names:
                    errors[at] = str(self._extra(row.keys() - self._names))
        return self._fill(values, len(rows), errors)

    def by_column(self, columns: Mapping[str, Array], rows: int) -> Assembled:
        """One array [rows] a feature. Raises `InvalidInputError` for columns missing, extra, or of another shape."""
        extra = columns.keys() - self._names
        if extra:
            raise self._extra(extra)
        values: dict[str, Values] = {}
        for column in self.columns:
            given = columns.get(column.name)
            if given is None and column.spec.required:
                raise InvalidInputError(f"feature {column.name!r}", "a column of it", "nothing")
            if given is None:
                values[column.name] = np.full(rows, None, object)
                continue
            if given.shape != (rows,):
                raise InvalidInputError(f"feature {column.name!r}", f"shape [{rows}]", str(list(given.shape)))
            if given.dtype.kind not in "fiubOU":
                raise InvalidInputError(f"feature {column.name!r}", column.expected, f"a column of {given.dtype}")
            values[column.name] = given
        return self._fill(values, rows, {})

    def _extra(self, names: set[str]) -> InvalidInputError:
        known = sorted(self._names)
        listed = ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
        return InvalidInputError(
            f"feature {shown(min(names))}", f"only features of the model ({listed})", "an extra one"
        )

    def _fill(self, values: Mapping[str, Values], rows: int, errors: dict[int, str]) -> Assembled:
        converted = {column.name: column.convert(values[column.name], errors) for column in self.columns}
        good = np.arange(rows)
        if errors:
            good = np.delete(good, np.fromiter(errors, np.intp, len(errors)))
            converted = {name: column[good] for name, column in converted.items()}
        inputs: dict[str, Array] = {}
        for name, tensor in self._inputs.items():
            if tensor.inner == ():
                inputs[name] = converted[self._of[name][0].name]
                continue
            inputs[name] = np.empty((len(good), tensor.row_items), tensor.dtype)
            for column in self._of[name]:
                inputs[name][:, column.spec.index] = converted[column.name]
        return Assembled(inputs, good, dict(sorted(errors.items())))
