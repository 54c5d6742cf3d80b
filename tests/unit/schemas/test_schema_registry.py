"""Confluent's framing against a server that speaks the schema registry's HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from arbitrary_records import of
from hypothesis import given, settings
from hypothesis import strategies as st
from registry_server import Registry, running_registry

from schemas.codec import Codec, DecodeError, schema_json
from schemas.framing import ConfluentFraming, RegistryUnavailableError
from schemas.make_vectors import samples
from schemas.records import RECORDS, Outcome, Record, ScoreRequest

schema_registry = pytest.importorskip("confluent_kafka.schema_registry")


@pytest.fixture(scope="module")
def running() -> Iterator[Registry]:
    with running_registry() as server:
        yield server


@pytest.fixture
def registry(running: Registry) -> Iterator[Registry]:
    yield running
    running.refuse = 0


def connect(registry: Registry) -> Codec:
    client = schema_registry.SchemaRegistryClient({"url": registry.url, "max.retries": 0})
    return Codec(ConfluentFraming(client))


@pytest.fixture(scope="module")
def codec(running: Registry) -> Codec:
    return connect(running)


def framed(number: int, body: bytes = b"") -> bytes:
    return b"\x00" + number.to_bytes(4, "big") + body


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_record_comes_back_equal_in_confluent_s_framing(
    running: Registry, codec: Codec, record: type[Record], data: st.DataObject
) -> None:
    one = data.draw(of(record))
    raw = codec.encode(one)
    number = running.subjects[f"penstock.v1.{record.__name__}"]
    assert raw[:5] == framed(number)
    assert raw[5:] == Codec().encode(one)[10:]
    assert codec.decode(record, raw) == one


def test_a_schema_written_by_another_is_asked_for_once(registry: Registry) -> None:
    codec = connect(registry)
    newer = json.loads(schema_json("Outcome"))
    newer["fields"].insert(0, {"name": "added", "type": "int", "default": 0})
    number = registry.add({"schema": json.dumps(newer)})
    outcome = next(one for one in samples() if isinstance(one, Outcome))
    raw = framed(number, b"\x0e" + codec.encode(outcome)[5:])  # added = 7
    registry.asked.clear()
    assert codec.decode(Outcome, raw) == codec.decode(Outcome, raw) == outcome
    assert [asked.partition("?")[0] for asked in registry.asked] == [f"GET /schemas/ids/{number}"]


def refused(codec: Codec, data: bytes) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        codec.decode(ScoreRequest, data)
    return caught.value


def test_bytes_that_are_no_record_are_told_apart(registry: Registry) -> None:
    codec = connect(registry)
    protobuf = registry.add({"schema": 'syntax = "proto3";', "schemaType": "PROTOBUF"})
    number = registry.subjects["penstock.v1.ScoreRequest"]
    assert refused(codec, framed(99_999)).reason == "UNKNOWN_FINGERPRINT"
    assert refused(codec, framed(protobuf, b"abc")).reason == "WRONG_TYPE"
    assert refused(codec, framed(registry.add({"schema": '"string"'}), b"abc")).reason == "WRONG_TYPE"
    assert refused(codec, framed(registry.subjects["penstock.v1.Outcome"], b"abc")).reason == "WRONG_TYPE"
    assert refused(codec, framed(number)).reason == "TRUNCATED"
    assert refused(codec, framed(number)[:4]).reason == "NOT_AVRO"
    assert refused(codec, Codec().encode(ScoreRequest("r", "m", "u", 0))).reason == "NOT_AVRO"


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_arbitrary_bodies_raise_only_decode_error(running: Registry, codec: Codec, body: bytes) -> None:
    number = running.subjects["penstock.v1.ScoreReply"]
    for data in (body, framed(number, body)):
        try:
            codec.decode(RECORDS[2], data)
        except DecodeError:
            continue


@pytest.mark.parametrize("status", [401, 500, 503])
def test_an_outage_of_the_registry_is_no_fault_of_the_record(registry: Registry, status: int) -> None:
    codec = connect(registry)
    number = registry.add({"schema": json.dumps({"type": "record", "name": f"Outage{status}", "fields": []})})
    registry.refuse = status
    with pytest.raises(RegistryUnavailableError, match=f"did not give schema {number}: no"):
        codec.decode(ScoreRequest, framed(number, b"abc"))
    with pytest.raises(RegistryUnavailableError, match=r"did not register penstock\.v1\.ScoreRequest: no"):
        connect(registry)
    registry.refuse = 0
    assert refused(codec, framed(number, b"abc")).reason == "WRONG_TYPE"  # asked again, and answered


def test_a_registry_that_is_not_there_is_said_in_a_line(registry: Registry) -> None:
    codec = connect(registry)
    with Registry() as other:
        gone = other.url
    codec.framing._registry = schema_registry.SchemaRegistryClient({"url": gone, "max.retries": 0})  # type: ignore[attr-defined]
    with pytest.raises(RegistryUnavailableError, match="did not give schema 77777: ") as caught:
        codec.decode(ScoreRequest, framed(77_777, b"abc"))
    assert "\n" not in str(caught.value)
