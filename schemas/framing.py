"""How a record says which schema wrote it: Avro single-object encoding, or Confluent's wire format with a registry.

Sources: Avro specification, "Single-object encoding"; Confluent documentation, "Wire format".
"""

from __future__ import annotations

import json
from typing import Any, Final, Protocol

from fastavro.schema import fingerprint, to_parsing_canonical_form

SchemaId = bytes | int
MARKER: Final = b"\xc3\x01"
MAGIC: Final = b"\x00"


class UnknownSchemaError(LookupError):
    """A frame names a schema that nobody here knows."""


class RegistryUnavailableError(ConnectionError):
    """The schema registry gave no answer, or not the one it should: about the registry, not about a record's bytes."""


class Framing(Protocol):
    """The bytes in front of an Avro body, and the store of schemas behind them."""

    def register(self, name: str, schema: str) -> SchemaId:
        """Announce a schema this process writes; returns what identifies it."""

    def header(self, schema_id: SchemaId) -> bytes:
        """The frame's bytes."""

    def read(self, data: bytes) -> tuple[SchemaId, int]:
        """The schema's id and where the body starts. Raises ValueError on bytes without this frame."""

    def lookup(self, schema_id: SchemaId) -> str:
        """The schema's JSON. Raises `UnknownSchemaError`; with a registry also `RegistryUnavailableError`."""


class SingleObjectFraming:
    """`C3 01`, then the 8-byte little-endian CRC-64-AVRO of the schema. Needs no registry."""

    def register(self, name: str, schema: str) -> bytes:
        """The schema's fingerprint."""
        del name
        return bytes.fromhex(fingerprint(to_parsing_canonical_form(json.loads(schema)), "CRC-64-AVRO"))

    def header(self, schema_id: SchemaId) -> bytes:
        """Marker and fingerprint, 10 bytes."""
        assert isinstance(schema_id, bytes)  # noqa: S101 - narrows the type
        return MARKER + schema_id

    def read(self, data: bytes) -> tuple[bytes, int]:
        """The fingerprint, and 10."""
        if data[:2] != MARKER or len(data) < 10:
            raise ValueError(f"it starts with {data[:2].hex(' ')}, not with the single-object marker c3 01")
        return data[2:10], 10

    def lookup(self, schema_id: SchemaId) -> str:
        """Fingerprints carry no schema: what was not learned is unknown."""
        assert isinstance(schema_id, bytes)  # noqa: S101
        raise UnknownSchemaError(f"no schema with fingerprint {schema_id.hex()} is known here")


class ConfluentFraming:
    """A zero byte, then the registry's 4-byte big-endian schema id. Subjects are full record names."""

    def __init__(self, registry: Any) -> None:
        """`registry`: a `confluent_kafka.schema_registry.SchemaRegistryClient`, which caches ids and schemas."""
        self._registry = registry

    def register(self, name: str, schema: str) -> int:
        """Register under the subject `name` (RecordNameStrategy); the registry answers the id.

        Raises `RegistryUnavailableError`, also where the registry refuses the schema as incompatible.
        """
        from confluent_kafka.schema_registry import Schema

        try:
            return int(self._registry.register_schema(name, Schema(schema, "AVRO")))
        except Exception as error:  # besides its own, it lets its HTTP library's errors through
            raise RegistryUnavailableError(f"the schema registry did not register {name}: {error}") from error

    def header(self, schema_id: SchemaId) -> bytes:
        """Magic byte and id, 5 bytes."""
        assert isinstance(schema_id, int)  # noqa: S101
        return MAGIC + schema_id.to_bytes(4, "big")

    def read(self, data: bytes) -> tuple[int, int]:
        """The id, and 5."""
        if data[:1] != MAGIC or len(data) < 5:
            raise ValueError(f"it starts with {data[:1].hex()}, not with the registry's magic byte 00")
        return int.from_bytes(data[1:5], "big"), 5

    def lookup(self, schema_id: SchemaId) -> str:
        """The registry's schema of that id. Raises `UnknownSchemaError` and `RegistryUnavailableError`."""
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        try:
            return str(self._registry.get_schema(schema_id).schema_str)
        except SchemaRegistryError as error:
            # Any other status is an outage: to call the schema unknown would throw good records away.
            if error.http_status_code == 404:
                raise UnknownSchemaError(f"the schema registry has no schema {schema_id!r}: {error}") from None
            raise RegistryUnavailableError(f"the schema registry did not give schema {schema_id!r}: {error}") from error
        except Exception as error:  # besides its own, it lets its HTTP library's errors through
            raise RegistryUnavailableError(f"the schema registry did not give schema {schema_id!r}: {error}") from error
