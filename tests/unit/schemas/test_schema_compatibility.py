"""Old readers read new records and new readers old ones; a schema cannot change unnoticed."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import pytest
from arbitrary_records import of
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import make_vectors
from schemas.codec import (
    NAMESPACE,
    Codec,
    DecodeError,
    SchemaError,
    parse,
    schema_fingerprint,
    schema_history,
    schema_json,
)
from schemas.codes import CODES, Code
from schemas.framing import MARKER
from schemas.records import RECORDS, Record, ScoreReply

CODEC = Codec()
SAMPLES = {type(sample): sample for sample in make_vectors.samples()}
PUBLISHED: dict[str, Any] = make_vectors.read("fingerprints")
every_record = pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)


def next_version(name: str) -> str:
    """The schema as a later release might have it: fields added in front and behind, docs changed."""
    schema = json.loads(schema_json(name))
    schema["doc"] = "Another text."
    schema["fields"][0]["doc"] = "Another text."
    first = {"name": "added_first", "type": "string", "default": "none", "doc": "New."}
    last = {
        "name": "added_last",
        "type": ["null", {"type": "array", "items": "double"}],
        "default": None,
        "doc": "New.",
    }
    schema["fields"] = [first, *schema["fields"], last]
    return json.dumps(schema)


def write(schema_text: str, values: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, parse(schema_text), values)
    return MARKER + schema_fingerprint(parse(schema_text)) + out.getvalue()


def read(schema_text: str, writer_text: str, data: bytes) -> dict[str, Any]:
    return fastavro.schemaless_reader(io.BytesIO(data[10:]), parse(writer_text), parse(schema_text))  # type: ignore[return-value]


@every_record
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_this_release_reads_records_of_the_next(record: type[Record], data: st.DataObject) -> None:
    name, newer = record.__name__, next_version(record.__name__)
    one = data.draw(of(record))
    values = read(schema_json(name), schema_json(name), CODEC.encode(one))
    raw = write(newer, {**values, "added_first": "x", "added_last": [1.0, 2.0]})
    with pytest.raises(DecodeError) as caught:
        CODEC.decode(record, raw)
    assert caught.value.reason == "UNKNOWN_FINGERPRINT"
    learned = Codec()
    learned.learn(newer)
    assert learned.decode(record, raw) == one


@every_record
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_next_release_reads_records_of_this(record: type[Record], data: st.DataObject) -> None:
    name = record.__name__
    raw = CODEC.encode(data.draw(of(record)))
    values = read(next_version(name), schema_json(name), raw)
    assert (values.pop("added_first"), values.pop("added_last")) == ("none", None)
    assert values == read(schema_json(name), schema_json(name), raw)


@every_record
def test_every_earlier_version_and_this_read_each_other(record: type[Record]) -> None:
    name = record.__name__
    now = read(schema_json(name), schema_json(name), CODEC.encode(SAMPLES[record]))
    for text in schema_history(name):
        back = CODEC.decode(record, write(text, now))
        assert isinstance(back, record)
        read(text, schema_json(name), CODEC.encode(SAMPLES[record]))


@settings(max_examples=60, deadline=None)
@given(one=of(ScoreReply))
def test_whose_answer_a_reply_is_can_be_read_without_the_rest_of_it(one: ScoreReply) -> None:
    raw = CODEC.encode(one)
    assert CODEC.reply_id(raw) == one.request_id
    own = read(schema_json("ScoreReply"), schema_json("ScoreReply"), raw)
    for text in schema_history("ScoreReply"):
        assert CODEC.reply_id(write(text, own)) == one.request_id
    newer = next_version("ScoreReply")
    learned = Codec()
    learned.learn(newer)
    assert learned.reply_id(write(newer, {**own, "added_first": "x", "added_last": None})) == one.request_id


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([b"", MARKER, CODEC.header(ScoreReply), CODEC.header(RECORDS[0])]))
def test_whose_answer_other_bytes_are_is_a_text_or_a_decode_error(raw: bytes, header: bytes) -> None:
    try:
        found = CODEC.reply_id(header + raw)
    except DecodeError as error:
        found = str(error)
    assert "\n" not in found or "\n" in raw.decode("utf-8", "replace")


@every_record
def test_every_version_is_published_and_so_is_each_required_field(record: type[Record]) -> None:
    name = record.__name__
    versions = [schema_fingerprint(parse(text)).hex() for text in (*schema_history(name), schema_json(name))]
    assert versions == PUBLISHED[name]["fingerprints"], "run `python -m schemas.make_vectors` and follow what it says"
    required = [one["name"] for one in json.loads(schema_json(name))["fields"] if "default" not in one]
    assert required == PUBLISHED[name]["required"], "a field added later needs a default"


def test_a_schema_changed_without_a_history_entry_is_refused() -> None:
    published = json.loads(json.dumps(PUBLISHED))
    published["Outcome"]["fingerprints"] = ["00" * 8]
    with pytest.raises(make_vectors.HistoryError, match=r"history/Outcome/0001\.avsc"):
        make_vectors.fingerprint_vectors(published)


def test_a_field_that_lost_its_default_is_refused() -> None:
    published = json.loads(json.dumps(PUBLISHED))
    published["Outcome"]["required"].remove("value")
    with pytest.raises(make_vectors.HistoryError, match=r"Outcome\.avsc: value needs a default"):
        make_vectors.fingerprint_vectors(published)


def test_a_code_that_a_later_release_adds_reads_as_internal() -> None:
    schema = json.loads(schema_json("ScoreReply"))
    code = next(one for one in schema["fields"] if one["name"] == "code")
    code["type"]["symbols"].append("THROTTLED")
    newer = json.dumps(schema)
    learned = Codec()
    learned.learn(newer)
    values = read(newer, newer, MARKER + bytes(8) + CODEC.encode(SAMPLES[ScoreReply])[10:])
    assert learned.decode(ScoreReply, write(newer, {**values, "code": "THROTTLED"})).code is Code.INTERNAL


def test_the_codes_are_the_enum_s_symbols_in_its_order() -> None:
    code = next(one for one in json.loads(schema_json("ScoreReply"))["fields"] if one["name"] == "code")
    assert tuple(code["type"]["symbols"]) == CODES


@every_record
def test_the_schema_is_in_the_namespace_and_names_its_record(record: type[Record]) -> None:
    assert parse(schema_json(record.__name__))["name"] == NAMESPACE + record.__name__


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no Avro schema: JSONDecodeError"),
        ('{"type": "record", "fields": []}', "no Avro schema"),
        ('{"type": "record", "name": "X", "fields": [{"name": "a", "type": "Y"}]}', "no Avro schema: UnknownType"),
        ('"string"', "not of a record"),
        ('{"type": "map", "values": "long"}', "not of a record"),
    ],
)
def test_a_text_that_is_no_schema_of_a_record_is_refused(text: str, said: str) -> None:
    with pytest.raises(SchemaError, match=said):
        CODEC.learn(text)


EMPTY = {"type": "record", "name": "Empty", "fields": []}
NULLS = {"type": "record", "name": "Nulls", "fields": [{"name": "n", "type": "null"}]}


@pytest.mark.parametrize("items", ["null", EMPTY, NULLS, {"type": "fixed", "name": "F", "size": 0}])
def test_a_schema_whose_arrays_could_be_endless_is_refused(items: Any) -> None:
    # Ten bytes announce 2^62 such items, and reading them would take centuries.
    array = {"type": "array", "items": items}
    for kind in (array, ["null", {"type": "map", "values": array}]):
        schema = {"type": "record", "name": "X", "fields": [{"name": "a", "type": kind}]}
        with pytest.raises(SchemaError, match="take no bytes"):
            CODEC.learn(json.dumps(schema))


def test_a_schema_whose_empty_items_are_named_elsewhere_is_refused_and_recursion_is_not() -> None:
    named = [{"name": "e", "type": EMPTY}, {"name": "a", "type": {"type": "array", "items": "Empty"}}]
    with pytest.raises(SchemaError, match="take no bytes"):
        CODEC.learn(json.dumps({"type": "record", "name": "X", "fields": named}))
    tree = {"type": "record", "name": "Tree", "fields": [{"name": "below", "type": {"type": "array", "items": "Tree"}}]}
    Codec().learn(json.dumps(tree))
