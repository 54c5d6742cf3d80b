"""Records to bytes and back: Avro in a frame that says which schema wrote it. fastavro does the Avro."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from importlib.resources import files
from operator import attrgetter
from typing import Any, Final, TypeVar, cast

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

from schemas.codes import Code
from schemas.framing import Framing, SchemaId, SingleObjectFraming, UnknownSchemaError
from schemas.records import (
    RECORDS,
    Alert,
    BatchSummary,
    Column,
    DeadLetter,
    MicroBatch,
    PredictionBatch,
    Record,
    RowError,
    ScoreBatch,
    ScoreReply,
    ScoreRequest,
    StringColumn,
    Tensor,
)
from schemas.views import read_string, reader_of

R = TypeVar("R", bound=Record)
Schema = dict[str, Any]
NAMESPACE: Final = "penstock.v1."


class DecodeError(ValueError):
    """Bytes that are not the record they should be. `reason` is a DeadLetter reason, the message one line."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class EncodeError(ValueError):
    """A record whose fields do not fit its schema."""


class SchemaError(ValueError):
    """A schema that cannot be used to read or write records: one line that says why."""


def schema_fingerprint(schema: Schema | str) -> bytes:
    """CRC-64-AVRO of the Parsing Canonical Form, little-endian (Avro specification, "Schema Fingerprints")."""
    return bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))


@cache
def schema_json(name: str) -> str:
    """The text of `avro/<name>.avsc`."""
    return files("schemas").joinpath(f"avro/{name}.avsc").read_text("utf-8")


@cache
def schema_history(name: str) -> tuple[str, ...]:
    """Texts of the schema's earlier versions, oldest first; empty where it never changed."""
    folder = files("schemas").joinpath(f"avro/history/{name}")
    if not folder.is_dir():
        return ()
    return tuple(one.read_text("utf-8") for one in sorted(folder.iterdir(), key=lambda one: one.name))


def parse(text: str) -> Schema:
    """A record's schema ready for fastavro, without logical types: to us a time is an int of microseconds.

    Raises `SchemaError`.
    """
    try:
        schema = fastavro.parse_schema(_plain(json.loads(text)))
    except Exception as error:  # noqa: BLE001 - whatever a foreign schema makes json and fastavro raise
        raise SchemaError(f"no Avro schema: {type(error).__name__}: {error}") from None
    if not isinstance(schema, dict) or schema.get("type") != "record":
        raise SchemaError("an Avro schema, but not of a record")
    # A few corrupt bytes can announce 2^62 items that take no bytes each: reading them would never end.
    if _has_weightless_items(schema):
        raise SchemaError("an array's items take no bytes, so that no size limits their count")
    return cast(Schema, schema)


class Codec:
    """Encodes and decodes every record type in one framing.

    Without arguments: Avro single-object encoding, with every schema of this release known. `learn` adds schemas of
    other releases (the control topic carries them), so that an old process reads new records.
    """

    def __init__(self, framing: Framing | None = None) -> None:
        texts = {
            record.__name__: (*schema_history(record.__name__), schema_json(record.__name__)) for record in RECORDS
        }
        self._readers = {name: parse(own[-1]) for name, own in texts.items()}
        self.framing = framing or SingleObjectFraming()
        self._ids = {name: self.framing.register(NAMESPACE + name, own[-1]) for name, own in texts.items()}
        self._read_batch = reader_of(self._readers[ScoreBatch.__name__])
        self._writers: dict[SchemaId, Schema] = {}
        for own in texts.values():
            for text in own:
                self.learn(text)

    def learn(self, text: str) -> None:
        """Make a writer's schema known, from its JSON. Raises `SchemaError`."""
        schema = parse(text)
        self._writers[schema_fingerprint(_plain(json.loads(text)))] = schema

    def header(self, record: type[Record]) -> bytes:
        """The frame's bytes in front of a record of this type."""
        return self.framing.header(self._ids[record.__name__])

    def encode(self, record: Record) -> bytes:
        """One record as framed bytes. Raises `EncodeError` naming the record that does not fit."""
        name = type(record).__name__
        for field in _INT32[name]:
            # fastavro would write it, and a reader that keeps to the specification stumble.
            if not -(2**31) <= getattr(record, field) < 2**31:
                raise EncodeError(f"{name} cannot be encoded: {field} does not fit 32 bits: {getattr(record, field)}")
        out = io.BytesIO()
        out.write(self.framing.header(self._ids[name]))
        try:
            fastavro.schemaless_writer(out, self._readers[name], _to_dict(record))
        except (ValueError, TypeError, AttributeError, OverflowError, LookupError) as error:
            raise EncodeError(f"{name} cannot be encoded: {error}") from error
        return out.getvalue()

    def decode(self, record: type[R], data: bytes | None) -> R:
        """Framed bytes as a record of this type.

        Raises `DecodeError`, and nothing else, whatever the bytes; with a schema registry also
        `RegistryUnavailableError`, which says nothing about the bytes: ask again later.
        """
        name = record.__name__
        if not data:
            raise DecodeError("NOT_AVRO", f"empty value where a {name} should be")
        try:
            schema_id, at = self.framing.read(data)
        except ValueError as error:
            raise DecodeError("NOT_AVRO", f"no {name}: {error}") from None
        writer = self._writer(schema_id)
        if writer["name"] != NAMESPACE + name:
            raise DecodeError("WRONG_TYPE", f"a {writer['name']} where a {NAMESPACE}{name} should be")
        # Of its own schema fastavro would first find out, field by field, that it is the same.
        reader = None if schema_id == self._ids[name] else self._readers[name]
        stream = io.BytesIO(data)
        stream.seek(at)
        try:
            fields_ = fastavro.schemaless_reader(stream, writer, reader)
            result = _BUILDERS[name](cast("dict[str, Any]", fields_))
        except Exception as error:  # noqa: BLE001 - corrupt bytes make fastavro raise anything
            # fastavro raises IndexError where the bytes end within a number.
            if isinstance(error, EOFError) or (isinstance(error, IndexError) and stream.tell() == len(data)):
                raise DecodeError("TRUNCATED", f"{name} ends before its last field, after {len(data)} bytes") from None
            raise DecodeError("NOT_AVRO", f"no {name}: {type(error).__name__}: {error}") from None
        if stream.tell() != len(data):
            raise DecodeError("NOT_AVRO", f"{len(data) - stream.tell()} bytes left over after a {name}")
        return cast(R, result)

    def reply_id(self, data: bytes) -> str:
        """Whose answer a framed ScoreReply is: its `request_id`, which comes first; the rest may be corrupt.

        A reply in another release's schema is decoded for it. Raises as `decode`.
        """
        try:
            schema_id, at = self.framing.read(data)
            if schema_id == self._ids[ScoreReply.__name__]:
                return read_string(data, at)[0]
        except (ValueError, IndexError):
            pass  # `decode` says what is wrong, in the words it has for it
        return self.decode(ScoreReply, data).request_id

    def decode_batch(self, data: bytes | None) -> ScoreBatch:
        """`decode` of a ScoreBatch; the data of its tensors may be views of `data`, and is not copied. Raises as there.

        A batch in another release's schema, and whatever is not right, is left to `decode`.
        """
        name = ScoreBatch.__name__
        try:
            schema_id, at = self.framing.read(data or b"")
            if data and schema_id == self._ids[name]:
                values, end = self._read_batch(data, at)
                if end == len(data):
                    return cast(ScoreBatch, _BUILDERS[name](values))
        except (ValueError, IndexError):
            pass  # `decode` says what is wrong, in the words it has for it
        return self.decode(ScoreBatch, data)

    def _writer(self, schema_id: SchemaId) -> Schema:
        known = self._writers.get(schema_id)
        if known is None:
            try:
                known = self._writers[schema_id] = parse(self.framing.lookup(schema_id))
            except UnknownSchemaError as error:
                raise DecodeError("UNKNOWN_FINGERPRINT", str(error)) from None
            except SchemaError as error:
                raise DecodeError("WRONG_TYPE", f"schema {schema_id!r} is {error}") from None
        return known


def _plain(schema: Any) -> Any:
    """The schema without logicalType, which would make fastavro build datetimes."""
    if isinstance(schema, dict):
        return {key: _plain(value) for key, value in schema.items() if key != "logicalType"}
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    return schema


def _has_weightless_items(schema: Any) -> bool:
    named: dict[str, Any] = {}

    def weightless(one: Any, inside: frozenset[str] = frozenset()) -> bool:
        if isinstance(one, str):
            if one in inside:
                return False
            return one == "null" or (one in named and weightless(named[one], inside | {one}))
        if isinstance(one, list):
            return False  # the branch takes a byte
        kind = one["type"]
        if kind in ("record", "error"):
            return all(weightless(field["type"], inside | {one["name"]}) for field in one["fields"])
        if kind == "fixed":
            return bool(one["size"] == 0)
        return kind not in ("array", "map", "enum") and weightless(kind, inside)

    def parts(one: Any) -> Iterator[Any]:
        yield one
        if isinstance(one, list):
            for branch in one:
                yield from parts(branch)
        elif isinstance(one, dict):
            if "name" in one:
                named[one["name"]] = one
            for key in ("type", "items", "values"):
                if isinstance(one.get(key), dict | list):
                    yield from parts(one[key])
            for field in one.get("fields", ()):
                yield from parts(field["type"])

    return any(
        isinstance(one, dict) and one.get("type") == "array" and weightless(one["items"]) for one in list(parts(schema))
    )


def _getter(kind: type[Any]) -> Callable[[Any], tuple[Any, ...]]:
    return cast("Callable[[Any], tuple[Any, ...]]", attrgetter(*(one.name for one in fields(kind))))


# The fields of a record in one call: to read them one by one costs as much as to write them.
_FIELDS: Final = {
    kind: (tuple(one.name for one in fields(kind)), _getter(kind))
    for kind in (*RECORDS, Tensor, Column, RowError, MicroBatch)
}


def _to_dict(record: Any) -> dict[str, Any]:
    names, get = _FIELDS[type(record)]
    values = dict(zip(names, get(record), strict=True))
    for name, function in _LOWER.get(type(record), {}).items():
        values[name] = function(values[name])
    return values


def _dicts(items: Sequence[Any]) -> list[dict[str, Any]]:
    return [_to_dict(one) for one in items]


def _string_dict(column: StringColumn | None) -> dict[str, bytes] | None:
    return None if column is None else {"offsets": column.offsets, "data": column.data}


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    # The schemas' unions of numbers have no boolean branch; a yes or no is 1 or 0.
    return {key: float(one) if isinstance(one, bool) else one for key, one in values.items()}


def _tensors(items: list[dict[str, Any]]) -> tuple[Tensor, ...]:
    return tuple(Tensor(one["name"], one["datatype"], tuple(one["shape"]), one["data"]) for one in items)


def _columns(items: list[dict[str, Any]]) -> tuple[Column, ...]:
    return tuple(
        Column(
            one["name"],
            one["datatype"],
            tuple(one["shape"]),
            one["data"],
            StringColumn(**one["strings"]) if one["strings"] is not None else None,
        )
        for one in items
    )


def _row_errors(items: list[dict[str, Any]]) -> tuple[RowError, ...]:
    return tuple(RowError(one["row"], Code(one["code"]), one["message"]) for one in items)


def _micro_batches(items: list[dict[str, Any]]) -> tuple[MicroBatch, ...]:
    return tuple(MicroBatch(**one) for one in items)


def _strings(item: dict[str, Any]) -> StringColumn:
    return StringColumn(**item)


def _histograms(items: dict[str, list[int]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(counts) for name, counts in items.items()}


_CONVERT: Final[Mapping[str, Mapping[str, Callable[[Any], Any]]]] = {
    "ScoreRequest": {"inputs": _tensors},
    "ScoreBatch": {"inputs": _tensors, "columns": _tensors},
    "ScoreReply": {"code": Code, "outputs": _tensors, "row_errors": _row_errors},
    "PredictionBatch": {
        "request_ids": _strings,
        "user_ids": _strings,
        "messages": _strings,
        "features": _columns,
        "outputs": _columns,
        "batches": _micro_batches,
    },
    "BatchSummary": {"latency_histogram": tuple, "score_histogram": tuple, "feature_histograms": _histograms},
}


# What fastavro does not write as it is, by record and field.
_LOWER: Final[Mapping[type[Any], Mapping[str, Callable[[Any], Any]]]] = {
    ScoreRequest: {"inputs": _dicts, "features": _numbers},
    ScoreBatch: {"inputs": _dicts, "columns": _dicts},
    ScoreReply: {"outputs": _dicts, "row_errors": _dicts},
    PredictionBatch: {
        "request_ids": _string_dict,
        "user_ids": _string_dict,
        "messages": _string_dict,
        "features": _dicts,
        "outputs": _dicts,
        "batches": _dicts,
    },
    Column: {"strings": _string_dict},
    BatchSummary: {"errors": dict, "feature_histograms": dict},
    DeadLetter: {"headers": dict},
    Alert: {"labels": dict},
}


def _builder(record: type[Record]) -> Callable[[dict[str, Any]], Record]:
    convert = _CONVERT.get(record.__name__, {})

    def build(values: dict[str, Any]) -> Record:
        for key, function in convert.items():
            values[key] = function(values[key])
        return record(**values)

    return build


def _int32(name: str) -> tuple[str, ...]:
    return tuple(one["name"] for one in json.loads(schema_json(name))["fields"] if one["type"] == "int")


_INT32: Final = {record.__name__: _int32(record.__name__) for record in RECORDS}
_BUILDERS: Final = {record.__name__: _builder(record) for record in RECORDS}
