"""Reads Avro records in pure Python, without copying long byte strings: they come as views of the record.

A bulk batch is one such string, and to copy it costs many times what reading the rest of it does. Only the types that
`ScoreBatch` is made of are known here, and only in the form that every writer uses; for all else there is fastavro.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

# Shorter ones are copied: a view keeps its whole record in memory.
LONG: Final = 4096

# A number of 64 bits takes ten bytes; to read on through megabytes of them would take for ever.
_MOST_BITS: Final = 70

# From the record and a position in it to a value and the position behind it. Raises ValueError or IndexError where
# the bytes are not what they should be, or are written in a way that is not known here.
Reader = Callable[[bytes, int], tuple[Any, int]]


class UnknownTypeError(ValueError):
    """A type that is not read here."""


def reader_of(schema: Any, named: dict[str, Reader] | None = None) -> Reader:
    """What reads values of a schema (as `json` or fastavro has parsed it). Raises `UnknownTypeError`."""
    named = {} if named is None else named
    if isinstance(schema, str):
        found = named.get(schema) or _PRIMITIVE.get(schema)
        if found is None:
            raise UnknownTypeError(f"no reader of {schema}")
        return found
    if not isinstance(schema, Mapping):
        raise UnknownTypeError(f"no reader of {schema}")
    kind = schema["type"]
    if kind == "record":
        fields = [(one["name"], reader_of(one["type"], named)) for one in schema["fields"]]
        named[schema["name"]] = _record(fields)
        return named[schema["name"]]
    if kind == "array":
        return _array(reader_of(schema["items"], named))
    return reader_of(kind, named)


def _record(fields: list[tuple[str, Reader]]) -> Reader:
    def read(data: bytes, at: int) -> tuple[Any, int]:
        values = {}
        for name, reader in fields:
            values[name], at = reader(data, at)
        return values, at

    return read


def _array(item: Reader) -> Reader:
    def read(data: bytes, at: int) -> tuple[Any, int]:
        values: list[Any] = []
        count, at = _long(data, at)
        while count:
            if count < 0:
                raise ValueError("a block that tells its size")
            for _ in range(count):
                value, at = item(data, at)
                values.append(value)
            count, at = _long(data, at)
        return values, at

    return read


def _long(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    at += 1
    value, shift = byte & 0x7F, 7
    while byte & 0x80:
        if shift == _MOST_BITS:
            raise ValueError("a number of more than ten bytes")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
    if value >= 1 << 64:
        raise ValueError("a number of more than 64 bits")
    return (value >> 1) ^ -(value & 1), at


def _int(data: bytes, at: int) -> tuple[int, int]:
    value, at = _long(data, at)
    if not -(1 << 31) <= value < 1 << 31:
        raise ValueError("a number of more than 32 bits")
    return value, at


def _span(data: bytes, at: int) -> tuple[int, int]:
    length, at = _long(data, at)
    end = at + length
    if length < 0 or end > len(data):
        raise ValueError("a string that ends behind the record")
    return at, end


def read_string(data: bytes, at: int) -> tuple[str, int]:
    """A string that begins at `at`, and where it ends. Raises ValueError or IndexError where there is none."""
    at, end = _span(data, at)
    return str(data[at:end], "utf-8"), end


def _bytes(data: bytes, at: int) -> tuple[bytes | memoryview, int]:
    at, end = _span(data, at)
    return (data[at:end] if end - at < LONG else memoryview(data)[at:end]), end


_PRIMITIVE: Final[Mapping[str, Reader]] = {"long": _long, "int": _int, "string": read_string, "bytes": _bytes}
