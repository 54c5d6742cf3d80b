"""The parts a signature is made of, tensors, named features and the score: frozen, each consistent in itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from models.errors import SignatureError
from models.fields import Fields
from schemas.tensors import BYTES, DATATYPES, Array

ANY: Final = -1


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output: name, Open Inference Protocol datatype, shape.

    Axis 0 is the rows. An extent is a number, -1 (any), or a symbol's name: axes of one symbol have one extent in one
    request. `pad_value` fills what a shorter neighbour in a batch leaves open (text is padded with "").
    """

    name: str
    datatype: str
    shape: tuple[int | str, ...]
    pad_value: float = 0
    dtype: np.dtype[Any] = field(init=False, repr=False, compare=False)
    inner: tuple[int, ...] | None = field(init=False, repr=False, compare=False)
    row_items: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        where = f"tensor {self.name!r}"
        if not self.name:
            raise SignatureError("a tensor needs a name")
        if self.datatype != BYTES and self.datatype not in DATATYPES:
            raise SignatureError(f"{where}: unknown datatype {self.datatype!r}; use {BYTES} or {', '.join(DATATYPES)}")
        if not self.shape:
            raise SignatureError(f"{where}: its shape needs a first axis, the rows")
        for extent in self.shape:
            if extent == "" or (not isinstance(extent, str) and extent != ANY and extent < 1):
                raise SignatureError(f"{where}: extent {extent!r} is neither -1, nor a name, nor 1 or more")
        dtype = np.dtype(object) if self.datatype == BYTES else DATATYPES[self.datatype]
        if self.datatype != BYTES and not fits(self.pad_value, dtype):
            raise SignatureError(f"{where}: pad_value {self.pad_value} is no {self.datatype}")
        fixed = tuple(extent for extent in self.shape[1:] if isinstance(extent, int) and extent != ANY)
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "inner", fixed if len(fixed) == len(self.shape) - 1 else None)
        object.__setattr__(self, "row_items", math.prod(fixed))

    @property
    def rows(self) -> int | None:
        """How many rows a run must have, where the model fixes it."""
        first = self.shape[0]
        return first if isinstance(first, int) and first != ANY else None

    @property
    def fill(self) -> float | str:
        """What padding is made of."""
        return "" if self.datatype == BYTES else self.pad_value

    def sample(
        self, rows: int, extent: int = 1, fill: float = 0, text: str = "", extents: Mapping[str, int] | None = None
    ) -> Array:
        """A warm-up input: `rows` rows of `fill` or `text`; dynamic axes as `extents` says by symbol, else `extent`."""
        known = extents or {}
        inner = [known.get(one, extent) if isinstance(one, str) else one for one in self.shape[1:]]
        shape = (rows, *(extent if one == ANY else one for one in inner))
        return np.full(shape, text if self.datatype == BYTES else fill, self.dtype)

    def shown_shape(self, rows: str = "rows") -> str:
        """The shape for a message, such as `[rows, 32]`."""
        extents = ["any" if extent == ANY else str(extent) for extent in self.shape[1:]]
        return f"[{', '.join([rows, *extents])}]"

    def to_json(self) -> dict[str, Any]:
        """What `read` reads."""
        out: dict[str, Any] = {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}
        return {**out, "pad_value": self.pad_value} if self.pad_value else out

    @classmethod
    def read(cls, fields: Fields) -> TensorSpec:
        """From JSON. Raises `ManifestError` naming the key, or `SignatureError`."""
        shape = fields.items("shape")
        if not all(isinstance(one, str | int) and not isinstance(one, bool) for one in shape):
            fields.fail("shape", "a list of whole numbers and names")
        spec = cls(fields.text("name"), fields.text("datatype"), tuple(shape), fields.number("pad_value", 0))
        fields.done()
        return spec


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """A named feature, and where it goes: column `index` of `input`, or all of an input of shape [rows] (`index` None).

    `vocabulary` makes it categorical: the model gets a value's place in it, and `unseen` for a value outside (None: an
    error). `required=False` lets it be missing or null: the model then gets `unseen` where that is set, else NaN ("" in
    text). `allow_nan` lets a sender give NaN. Infinity passes only where the whole signature allows it.
    """

    name: str
    input: str
    index: int | None = None
    vocabulary: tuple[str, ...] = ()
    unseen: int | None = None
    required: bool = True
    allow_nan: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            raise SignatureError("a feature needs a name")
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise SignatureError(f"feature {self.name!r}: its vocabulary holds a value twice")

    def to_json(self) -> dict[str, Any]:
        """What `read` reads; what has its default is left out."""
        out: dict[str, Any] = {"name": self.name, "input": self.input, "index": self.index}
        if self.vocabulary:
            out["vocabulary"] = list(self.vocabulary)
        if self.unseen is not None:
            out["unseen"] = self.unseen
        if not self.required:
            out["required"] = False
        if self.allow_nan:
            out["allow_nan"] = True
        return out

    @classmethod
    def read(cls, fields: Fields) -> FeatureSpec:
        """From JSON. Raises `ManifestError` naming the key, or `SignatureError`."""
        spec = cls(
            fields.text("name"),
            fields.text("input"),
            fields.index("index"),
            fields.texts("vocabulary", ()),
            fields.index("unseen"),
            fields.flag("required", True),
            fields.flag("allow_nan", False),
        )
        fields.done()
        return spec


@dataclass(frozen=True, slots=True)
class Score:
    """Which scalar of each row is "the score": element `index` of the row's flattened output; None: its only one."""

    output: str
    index: int | None = None

    def to_json(self) -> dict[str, Any]:
        """What `read` reads."""
        return {"output": self.output, "index": self.index}

    @classmethod
    def read(cls, fields: Fields) -> Score:
        """From JSON. Raises `ManifestError` naming the key."""
        score = cls(fields.text("output"), fields.index("index"))
        fields.done()
        return score


@dataclass(frozen=True, slots=True)
class AxisBuckets:
    """Extents a dynamic inner axis is padded to, ascending; beyond the last, a batch is padded to its longest."""

    axis: str
    extents: tuple[int, ...]

    def __post_init__(self) -> None:
        if any(low >= high for low, high in zip((0, *self.extents), self.extents, strict=False)):
            raise SignatureError(f"axis {self.axis!r}: buckets must be positive and ascending: {list(self.extents)}")

    def to_json(self) -> dict[str, Any]:
        """What `read` reads."""
        return {"axis": self.axis, "extents": list(self.extents)}

    @classmethod
    def read(cls, fields: Fields) -> AxisBuckets:
        """From JSON. Raises `ManifestError` naming the key, or `SignatureError`."""
        axis = cls(fields.text("axis"), fields.integers("extents"))
        fields.done()
        return axis


@dataclass(frozen=True, slots=True)
class Assembled:
    """Inputs made of named features: arrays of the good rows only, their indices, and what is wrong with the rest."""

    inputs: dict[str, Array]
    good: Array
    errors: dict[int, str]


def fits(value: float, dtype: np.dtype[Any]) -> bool:
    """Whether a number can be an element of a numeric dtype without changing its meaning."""
    if dtype.kind == "b":
        return value in (0, 1)
    if dtype.kind == "f":
        return math.isfinite(value) and abs(value) <= float(np.finfo(dtype).max)
    info = np.iinfo(dtype)
    return math.isfinite(value) and float(value).is_integer() and int(info.min) <= int(value) <= int(info.max)
