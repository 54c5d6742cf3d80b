"""The published vectors are what the code computes, and the algorithms are those the world knows by their names."""

from __future__ import annotations

import json
from typing import Any

import pytest

from models.routing import bucket
from schemas import make_vectors
from schemas.codec import Codec, schema_fingerprint, schema_json
from schemas.partitioning import murmur2, partition_for, record_key
from schemas.records import RECORDS
from schemas.topics import Topics, topic_specs


def test_published_keys_and_partitions_are_those_we_use() -> None:
    rows = make_vectors.read("keys")
    assert len(rows) == len(make_vectors.USERS) * len(make_vectors.EXPERIMENTS)
    for row in rows:
        key = record_key(row["user_id"], row["experiment"])
        assert key.hex() == row["key"]
        for count, partition in row["partition"].items():
            assert partition_for(key, int(count)) == partition == (row["murmur2"] & 0x7FFFFFFF) % int(count)
        assert set(row["partition"]) == {"1", "8", "64"}


def test_published_buckets_are_those_routing_uses() -> None:
    rows = make_vectors.read("buckets")
    assert len(rows) == len(make_vectors.USERS) * len(make_vectors.SALTS)
    for row in rows:
        assert bucket(row["salt"], row["user_id"]) == row["bucket"] == int(row["xxh3_64"], 16) % 10_000


def test_published_records_are_what_we_write_and_read() -> None:
    codec = Codec()
    rows = make_vectors.read("records")
    assert [row["record"] for row in rows] == [record.__name__ for record in RECORDS]
    for row, sample in zip(rows, make_vectors.samples(), strict=True):
        data = bytes.fromhex(row["bytes"])
        assert codec.encode(sample) == data
        assert codec.decode(type(sample), data) == sample


def test_the_files_are_what_the_module_writes() -> None:
    assert make_vectors.read("keys") == make_vectors.key_vectors()
    assert make_vectors.read("buckets") == make_vectors.bucket_vectors()
    assert make_vectors.read("records") == make_vectors.record_vectors()
    published = make_vectors.read("fingerprints")
    assert published == make_vectors.fingerprint_vectors(published)


# org.apache.kafka.common.utils.UtilsTest.testMurmur2; the last four computed by that class in kafka-clients 4.4.0.
KAFKA = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
    "": 275646681,
    "|": -418046065,
    "user-1|": -1470994179,
    "Zürich|früh": -1257171593,
}


@pytest.mark.parametrize("text", KAFKA)
def test_murmur2_is_kafka_s(text: str) -> None:
    value = murmur2(text.encode())
    assert (value if value < 2**31 else value - 2**32) == KAFKA[text]


def rabin(text: str) -> int:
    """CRC-64-AVRO as the Avro specification writes it, section "Schema Fingerprints"."""
    empty = 0xC15D213AA4D7A795
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (empty & -(value & 1))
        table.append(value)
    out = empty
    for byte in text.encode():
        out = (out >> 8) ^ table[(out ^ byte) & 0xFF]
    return out


def canonical(schema: Any, namespace: str = "") -> str:
    """Parsing Canonical Form, by the rules of the Avro specification."""
    if isinstance(schema, str):
        primitive = schema in ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
        return json.dumps(schema if primitive or "." in schema else f"{namespace}.{schema}")
    if isinstance(schema, list):
        return "[" + ",".join(canonical(one, namespace) for one in schema) + "]"
    if schema["type"] not in ("record", "enum", "array", "map"):
        return canonical(schema["type"], namespace)
    namespace = schema.get("namespace", namespace)
    parts = [f'"name":"{namespace}.{schema["name"]}"'] if "name" in schema else []
    parts.append(f'"type":"{schema["type"]}"')
    if "fields" in schema:
        inner = (f'{{"name":"{one["name"]}","type":{canonical(one["type"], namespace)}}}' for one in schema["fields"])
        parts.append('"fields":[' + ",".join(inner) + "]")
    if "symbols" in schema:
        parts.append('"symbols":' + json.dumps(schema["symbols"], separators=(",", ":")))
    parts += [f'"{key}":{canonical(schema[key], namespace)}' for key in ("items", "values") if key in schema]
    return "{" + ",".join(parts) + "}"


def test_the_fingerprint_of_null_is_the_specification_s() -> None:
    assert rabin('"null"') == 0x63DD24E7CC258F8A
    assert schema_fingerprint("null") == (0x63DD24E7CC258F8A).to_bytes(8, "little")


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_a_record_s_frame_is_the_marker_and_its_schema_s_fingerprint(record: Any) -> None:
    text = canonical(json.loads(schema_json(record.__name__)))
    assert Codec().header(record) == b"\xc3\x01" + rabin(text).to_bytes(8, "little")


def test_topics_carry_their_prefix_and_control_has_one_partition() -> None:
    topics = Topics("team-a.")
    specs = {spec.name: spec for spec in topic_specs(topics, 6)}
    assert set(specs) == {getattr(topics, name) for name in Topics.__slots__ if name != "prefix"}
    assert all(name.startswith("team-a.") for name in specs)
    assert (specs[topics.control].partitions, specs[topics.control].config["cleanup.policy"]) == (1, "compact")
    assert specs[topics.requests].partitions == 6
