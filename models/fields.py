"""Reads JSON objects written by people, so that every mistake is answered with the key it is under."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from models.errors import ManifestError, shown

_REQUIRED: Final[Any] = object()


class Fields:
    """One JSON object being read; `where` is its place, such as `signature.inputs[0]`.

    Every failure is a `ManifestError` of one line. `done` refuses keys that nobody read.
    """

    def __init__(self, value: object, where: str) -> None:
        self.where = where
        self._read: set[str] = set()
        if not isinstance(value, Mapping):
            raise ManifestError(f"{where or 'manifest'}: expected an object, got {shown(value)}")
        self._value: Mapping[str, object] = value

    def path(self, key: str) -> str:
        """Where a key of this object is."""
        return f"{self.where}.{key}" if self.where else key

    def fail(self, key: str, expected: str) -> NoReturn:
        """Raise for a key's value."""
        raise ManifestError(f"{self.path(key)}: expected {expected}, got {shown(self._value.get(key))}")

    def raw(self, key: str, default: Any = _REQUIRED) -> Any:
        """A value of any type."""
        self._read.add(key)
        if key in self._value:
            return self._value[key]
        if default is _REQUIRED:
            raise ManifestError(f"{self.path(key)}: it is missing")
        return default

    def text(self, key: str, default: Any = _REQUIRED) -> str:
        """A string."""
        value = self.raw(key, default)
        return value if isinstance(value, str) else self.fail(key, "a string")

    def integer(self, key: str, default: Any = _REQUIRED) -> int:
        """A whole number."""
        value = self.raw(key, default)
        return value if isinstance(value, int) and not isinstance(value, bool) else self.fail(key, "a whole number")

    def index(self, key: str) -> int | None:
        """A whole number or null; a missing key is null."""
        return None if self.raw(key, None) is None else self.integer(key)

    def number(self, key: str, default: Any = _REQUIRED) -> float:
        """A finite number."""
        value = self.raw(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(key, "a number")
        try:
            number = float(value)
        except OverflowError:  # JSON's whole numbers have no end
            self.fail(key, "a number")
        return number if math.isfinite(number) else self.fail(key, "a number")

    def flag(self, key: str, default: Any = _REQUIRED) -> bool:
        """true or false."""
        value = self.raw(key, default)
        return value if isinstance(value, bool) else self.fail(key, "true or false")

    def items(self, key: str, default: Any = _REQUIRED) -> list[Any]:
        """A list of anything."""
        value = self.raw(key, default)
        return list(value) if isinstance(value, list | tuple) else self.fail(key, "a list")

    def texts(self, key: str, default: Any = _REQUIRED) -> tuple[str, ...]:
        """A list of strings."""
        items = self.items(key, default)
        return tuple(items) if all(isinstance(one, str) for one in items) else self.fail(key, "a list of strings")

    def integers(self, key: str, default: Any = _REQUIRED) -> tuple[int, ...]:
        """A list of whole numbers."""
        items = self.items(key, default)
        if not all(isinstance(one, int) and not isinstance(one, bool) for one in items):
            self.fail(key, "a list of whole numbers")
        return tuple(items)

    def mapping(self, key: str, default: Any = _REQUIRED) -> dict[str, Any]:
        """An object, left as it is."""
        value = self.raw(key, default)
        return dict(value) if isinstance(value, Mapping) else self.fail(key, "an object")

    def children(self, key: str, default: Any = _REQUIRED) -> list[Fields]:
        """A list of objects, each to be read in turn."""
        return [Fields(one, f"{self.path(key)}[{at}]") for at, one in enumerate(self.items(key, default))]

    def done(self) -> None:
        """Refuse keys that nobody read: a mistyped key must not pass for a default."""
        unknown = sorted(set(self._value) - self._read)
        if unknown:
            raise ManifestError(f"{self.path(unknown[0])}: no such key; there are {', '.join(sorted(self._read))}")
