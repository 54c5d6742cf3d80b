"""Writes `vectors/*.json`, by which a client in another language checks itself: `python -m schemas.make_vectors`.

`keys.json`: key and partition. `buckets.json`: bucket of a salt and user. `records.json`: one record of each type as
Avro JSON and as single-object bytes. `fingerprints.json`: every version each schema ever had; none is ever dropped.
"""

from __future__ import annotations

import io
import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import fastavro
from xxhash import xxh3_64_intdigest

from schemas.codec import Codec, parse, schema_fingerprint, schema_history, schema_json
from schemas.codes import Code
from schemas.framing import SingleObjectFraming
from schemas.partitioning import murmur2, partition_for, record_key
from schemas.records import (
    RECORDS,
    Alert,
    BatchSummary,
    Column,
    Control,
    DeadLetter,
    MicroBatch,
    Outcome,
    PredictionBatch,
    Record,
    RowError,
    ScoreBatch,
    ScoreReply,
    ScoreRequest,
    StringColumn,
    Tensor,
)

USERS: Final = ("", "u", "user-1", "N14228", "a|b", "Zürich", "日本語", "🚀", "x" * 100)
EXPERIMENTS: Final = ("", "late-arrivals", "früh")
SALTS: Final = ("late-arrivals", "layer:home", "")
PARTITIONS: Final = (1, 8, 64)
_AT: Final = 1_364_774_400_000_000  # 2013-04-01T00:00:00Z


class HistoryError(ValueError):
    """A schema changed in a way that the published versions do not allow: one line that says what to do."""


def samples() -> tuple[Record, ...]:
    """One record of each type; maps have one entry, since their order is free."""
    row = Tensor("x", "FP32", (1, 2), bytes.fromhex("0000803f000000c0"))
    scores = Tensor("p", "FP64", (1,), bytes.fromhex("000000000000e03f"))
    text = StringColumn(bytes.fromhex("0000000005000000"), b"N1422")
    return (
        ScoreRequest(
            request_id="r-1",
            model="flight-delay",
            user_id="Zürich",
            sent_at=_AT,
            version="2",
            experiment="late-arrivals",
            deadline=_AT + 250_000,
            reply_topic="scoring.replies",
            reply_partition=3,
            inputs=(row,),
            features={"carrier": "UA"},
        ),
        ScoreBatch(
            job="job-1",
            sequence=7,
            model="flight-delay",
            sent_at=_AT,
            reply_topic="scoring.bulk.results",
            rows=1,
            inputs=(row,),
            columns=(Tensor("carrier", "BYTES", (1,), bytes.fromhex("02000000") + b"UA"),),
        ),
        ScoreReply(
            request_id="r-1",
            code=Code.OK,
            message="",
            model="flight-delay",
            version="2",
            variant="new",
            received_at=_AT + 1000,
            replied_at=_AT + 5000,
            outputs=(scores,),
            row_errors=(RowError(0, Code.INVALID_ARGUMENT, "x: expected FP32, got FP64"),),
            degraded="cpu",
        ),
        PredictionBatch(
            batch_id="worker-1/9",
            worker="worker-1",
            device="cpu",
            model="flight-delay",
            version="2",
            experiment="late-arrivals",
            variant="new",
            topic="scoring.requests",
            scored_at=_AT + 4000,
            rows=1,
            request_ids=StringColumn(bytes.fromhex("0000000003000000"), b"r-1"),
            user_ids=text,
            partitions=bytes.fromhex("05000000"),
            offsets=bytes.fromhex("0a00000000000000"),
            row_numbers=bytes(4),
            sent_at=_AT.to_bytes(8, "little"),
            received_at=(_AT + 1000).to_bytes(8, "little"),
            codes=b"\x00",
            messages=StringColumn(bytes(8), b""),
            scores=bytes.fromhex("000000000000e03f"),
            features=(Column("tail", "BYTES", (1,), b"", text), Column("hour", "FP64", (1,), bytes(8))),
            outputs=(Column("p", "FP64", (1,), bytes.fromhex("000000000000e03f")),),
            degraded="cached",
            batches=(MicroBatch("worker-1/9", _AT + 4000, 1, 350),),
        ),
        BatchSummary(
            batch_id="worker-1/9",
            worker="worker-1",
            device="cuda:0",
            model="flight-delay",
            version="2",
            experiment="",
            variant="",
            topic="scoring.requests",
            scored_at=_AT,
            requests=2,
            rows=3,
            padded_rows=1,
            queue_us=300,
            batch_us=200,
            infer_us=100,
            latency_histogram=(0, 3),
            score_count=3,
            score_sum=1.5,
            score_sum_squares=0.75,
            score_histogram=(0, 0, 3),
            errors={"INVALID_ARGUMENT": 1},
            feature_histograms={"distance": (1, 0, 2)},
            degraded="fallback:flight-delay/1",
            batches=2,
        ),
        Outcome(
            outcome_id="o-1",
            user_id="N14228",
            name="late",
            value=1.0,
            occurred_at=_AT,
            request_id="r-1",
            experiment="late-arrivals",
            model="flight-delay",
            sent_at=_AT + 1,
        ),
        DeadLetter(
            topic="scoring.requests",
            partition=3,
            offset=2**40,
            key=b"u|",
            value=None,
            reason="NOT_AVRO",
            detail="empty value where a ScoreRequest should be",
            worker="worker-1",
            failed_at=_AT,
            headers={"traceparent": b"00-01"},
        ),
        Control(kind="experiment", name="late-arrivals", revision=4, body="{}", changed_at=_AT, author="früh"),
        Alert(
            alert_id="error_rate/9f86d081884c7d65",
            rule="error_rate",
            state="firing",
            raised_at=_AT + 61_000_000,
            severity="critical",
            source="monitor",
            labels={"model": "flight-delay"},
            summary="flight-delay 2: 12.0% of 250 rows failed, at most 5.0% may",
            value=0.12,
            threshold=0.05,
            n=250,
            window_start=_AT,
            window_end=_AT + 60_000_000,
            evidence='{"stopped": []}',
        ),
    )


def key_vectors() -> list[dict[str, Any]]:
    """Keys with their murmur2 (as Java's signed int) and partitions."""
    rows = []
    for user in USERS:
        for experiment in EXPERIMENTS:
            key = record_key(user, experiment)
            signed = int.from_bytes(murmur2(key).to_bytes(4, "big"), "big", signed=True)
            partitions = {str(count): partition_for(key, count) for count in PARTITIONS}
            rows.append(
                {
                    "user_id": user,
                    "experiment": experiment,
                    "key": key.hex(),
                    "murmur2": signed,
                    "partition": partitions,
                }
            )
    return rows


def bucket_vectors() -> list[dict[str, Any]]:
    """Buckets. Written out here from its definition, so that it also checks `models.routing`."""
    return [
        {"salt": salt, "user_id": user, "xxh3_64": f"{hashed:016x}", "bucket": hashed % 10_000}
        for salt in SALTS
        for user in USERS
        for hashed in [xxh3_64_intdigest(f"{salt}:{user}".encode())]
    ]


def record_vectors() -> list[dict[str, Any]]:
    """Each sample in Avro's JSON encoding, its schema's fingerprint and its single-object bytes, in hex."""
    codec = Codec(SingleObjectFraming())
    rows = []
    for sample in samples():
        name, data = type(sample).__name__, codec.encode(sample)
        schema = parse(schema_json(name))
        out = io.StringIO()
        fastavro.json_writer(out, schema, [fastavro.schemaless_reader(io.BytesIO(data[10:]), schema, schema)])
        rows.append({"record": name, "value": json.loads(out.getvalue()), "bytes": data.hex()})
    return rows


def fingerprint_vectors(published: dict[str, Any]) -> dict[str, Any]:
    """Fingerprints of each schema's versions, oldest first, and the fields that have no default.

    `published`: what was written before. Raises `HistoryError` where a version or a default would be lost.
    """
    out: dict[str, Any] = {}
    for record in RECORDS:
        name = record.__name__
        current = json.loads(schema_json(name))
        versions = [schema_fingerprint(parse(text)).hex() for text in (*schema_history(name), schema_json(name))]
        required = [one["name"] for one in current["fields"] if "default" not in one]
        before = published.get(name, {"fingerprints": [], "required": required})
        if versions[: len(before["fingerprints"])] != before["fingerprints"]:
            raise HistoryError(
                f"{name}.avsc changed; put its text of before into schemas/avro/history/{name}/"
                f"{len(before['fingerprints']):04}.avsc"
            )
        if not set(required) <= set(before["required"]):
            raise HistoryError(
                f"{name}.avsc: {', '.join(sorted(set(required) - set(before['required'])))} needs a default"
            )
        out[name] = {"fingerprints": versions, "required": required}
    return out


def read(name: str) -> Any:
    """A vector file's content; None where it was never written."""
    file = files("schemas").joinpath(f"vectors/{name}.json")
    return json.loads(file.read_text("utf-8")) if file.is_file() else None


def main() -> int:
    """Write every vector file next to this one."""
    folder = Path(__file__).parent / "vectors"
    try:
        vectors = {
            "keys": key_vectors(),
            "buckets": bucket_vectors(),
            "records": record_vectors(),
            "fingerprints": fingerprint_vectors(read("fingerprints") or {}),
        }
    except HistoryError as error:
        print(error, file=sys.stderr)
        return 2
    folder.mkdir(exist_ok=True)
    for name, content in vectors.items():
        text = json.dumps(content, ensure_ascii=False, indent=1)
        (folder / f"{name}.json").write_text(text + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
