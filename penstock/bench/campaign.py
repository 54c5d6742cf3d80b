"""The works of `penstock bench peers`, one after another, and the document that they come to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from penstock.bench.backlog import run_backlog
from penstock.bench.batching import WORKER, run_batching
from penstock.bench.bed import Bed, machine
from penstock.bench.bulk import run_bulk
from penstock.bench.candidates import Candidate, Kind
from penstock.bench.comparison import Goal, report
from penstock.bench.in_flight import SIZES, run_in_flight
from penstock.bench.peer_process import pinned
from penstock.bench.peers import picture, run_peers
from penstock.bench.reply import run_reply
from penstock.settings import Settings

WORKS: Final = ("stream", "heavy", "bulk", "reply", "batching", "in-flight", "backlog")
_NAMED: Final = ("faust-streaming", "quixstreams", "bytewax", "mlserver", "aiokafka", "confluent-kafka", "onnxruntime")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each work is done."""

    rounds: int = 3
    records: int = 1_500_000
    heavy_records: int = 150_000
    bulk_rows: int = 12_000_000
    reply_rate: float = 500.0
    reply_seconds: float = 60.0
    batching_rate: float = 1000.0
    batching_seconds: float = 60.0
    in_flight: tuple[int, ...] = SIZES
    backlog: int = 1_000_000
    backlog_rows: int = 1


def run_campaign(
    settings: Settings,
    broker: str,
    works: Sequence[str],
    candidates: Sequence[Candidate],
    sizes: Sizes,
    python: Callable[[str], Path],
    say: Say,
) -> dict[str, Any]:
    """Each work on a bed of its own. Raises what a `Bed` and the works raise."""
    document: dict[str, Any] = {"benchmark": "peers", "works": {}, "goals": []}
    for work in WORKS:
        if work not in works:
            continue
        say(f"{work}:")
        model = "heavy" if work == "heavy" else "mlp"
        module = WORKER if work == "batching" else "penstock"
        with Bed(settings, broker, model, say=say, worker_module=module) as bed:
            document.setdefault("broker", bed.broker)
            document.setdefault("machine", machine(bed.settings, broker))
            found = _run(bed, work, candidates, sizes, python, say)
        document["works"][work] = found
        document["goals"] += found.pop("goals")
    document["peers"] = {
        one.name: {name: version for name, version in pinned(one.folder).items() if name in _NAMED}
        for one in candidates
        if one.kind is Kind.PEER and {"stream", "heavy"} & set(works)
    }
    return document


def _run(
    bed: Bed,
    work: str,
    candidates: Sequence[Candidate],
    sizes: Sizes,
    python: Callable[[str], Path],
    say: Say,
) -> dict[str, Any]:
    rounds = sizes.rounds
    if work in ("stream", "heavy"):
        records = sizes.heavy_records if work == "heavy" else sizes.records
        return run_peers(bed, candidates, records, rounds, python, say, work)
    if work == "bulk":
        found = run_bulk(bed, sizes.bulk_rows, 4096, rounds, "exactly-once", 1, say)
        goal = Goal(work, "columnar stream against ONNX Runtime alone", 0.6, found["ratio"]["median"])
        notes = [
            f"{label}: {found[key]['median']:,.0f} rows/s ({found[key]['min']:,.0f} to {found[key]['max']:,.0f})."
            for label, key in (
                ("ONNX Runtime alone", "onnxruntime_alone_rows_per_second"),
                ("Stream", "rows_per_second"),
                ("File to file", "file_rows_per_second"),
            )
        ]
        title = f"{bed.workload.shown}, columnar records of 4,096 rows"
        return {"title": title, **found, "notes": notes, "goals": [goal.to_json()]}
    if work == "reply":
        found = run_reply(bed, sizes.reply_rate, sizes.reply_seconds, rounds, 1, say)
        goals = [
            Goal(work, f"{name} added over the raw echo", limit, found[f"added_{name}_ms"], at_most=True, unit="ms")
            for name, limit in (("p50", 3.0), ("p99", 15.0))
        ]
        title = f"{sizes.reply_rate:,.0f} requests/s to one worker, beside a raw Kafka echo"
        notes = [
            f"{label}: p50 {found[f'{who}_p50_ms']['median']:.1f} ms, p99 {found[f'{who}_p99_ms']['median']:.1f} ms "
            f"({found[f'{who}_p99_ms']['min']:.1f} to {found[f'{who}_p99_ms']['max']:.1f})."
            for label, who in (("Raw echo", "echo"), ("Request/reply", "reply"))
        ]
        return {"title": title, **found, "notes": notes, "goals": [one.to_json() for one in goals]}
    if work == "batching":
        return run_batching(bed, sizes.batching_rate, sizes.batching_seconds, rounds, 2, say)
    if work == "in-flight":
        return run_in_flight(bed, sizes.in_flight, rounds, say)
    return run_backlog(
        bed, sizes.backlog, sizes.backlog_rows, sizes.reply_rate / 5, sizes.reply_seconds / rounds, rounds, 1, say
    )


def write(document: dict[str, Any], folder: Path, candidates: Sequence[Candidate]) -> list[Path]:
    """DATE-peers.json, .md and .svg in `folder`; where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / f"{document['machine']['date'][:10]}-peers"
    written = []
    stream = document["works"].get("stream")
    if stream is not None:
        written.append(base.with_suffix(".svg"))
        written[-1].write_text(picture(stream, candidates))
    for suffix, text in (
        (".json", json.dumps(document, indent=2, ensure_ascii=False) + "\n"),
        (".md", report(document, written[0].name if written else "")),
    ):
        written.append(base.with_suffix(suffix))
        written[-1].write_text(text)
    return written


def goals_before(place: Path) -> list[dict[str, Any]]:
    """The goals of a document that `write` wrote; of a folder those of all of its documents, the latest last.

    A run may be of some works only. Raises OSError, and ValueError, for a file that is none; both name it.
    """
    files = sorted(place.glob("*-peers.json")) if place.is_dir() else [place]
    return [goal for file in files for goal in _goals_in(file)]


def _goals_in(file: Path) -> list[dict[str, Any]]:
    try:
        document = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    goals = document.get("goals") if isinstance(document, dict) else None
    if not isinstance(goals, list):
        raise ValueError(f"{file}: it is no document of `penstock bench peers`")
    return goals
