"""`penstock bench peers`: Penstock, its peers and the limits by turns, on the same records and the same model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from penstock.bench.bed import Bed, BenchError
from penstock.bench.candidates import OURS, Candidate, Kind, rotated
from penstock.bench.chart import Bar, bars
from penstock.bench.comparison import goals_of, rates_table, ratios
from penstock.bench.figures import Spread, doubts
from penstock.bench.turn import Course, Timed

# Penstock, one worker, exactly once, against each: at least.
STREAM_GOALS: Final[Mapping[str, float]] = {
    "raw": 0.7, "confluent": 2.5, "faust": 40.0, "quixstreams": 8.0, "mlserver": 40.0, "aiokafka": 5.0,
    "penstock-at-least-once": 0.85,
}  # fmt: skip
HEAVY_GOALS: Final[Mapping[str, float]] = {"onnxruntime": 0.8}
# What a reader has to know of some candidates.
_NOTES: Final = (
    ({"mlserver"}, "MLServer reads the same rows as Open Inference Protocol in JSON from a topic of its own."),
    (
        {"mlserver"},
        "MLServer takes up every record at once: with a backlog of 20,000 its producer timed out and answers were "
        "lost, so its rounds are short.",
    ),
    (
        {"faust", "mlserver"},
        "Faust and MLServer read uncommitted records and are stopped while their topic is filled.",
    ),
    (
        {"bytewax", "mlserver"},
        "Bytewax and MLServer commit no offsets to Kafka: their clock ends with the last reply.",
    ),
)
Say = Callable[[str], None]


def run_peers(
    bed: Bed,
    candidates: Sequence[Candidate],
    records: int,
    rounds: int,
    python: Callable[[str], Path],
    say: Say,
    work: str = "stream",
) -> dict[str, Any]:
    """Every candidate in every round. Raises `BenchError` where Penstock or a limit fails.

    A peer that cannot be installed, does not answer or answers differently is not timed; the document says why.
    """
    course = Course(bed, python, say)
    say("asking Penstock for the answers that the others are compared with")
    course.learn_reference()
    timed: dict[str, list[Timed]] = {one.name: [] for one in candidates}
    failed: dict[str, str] = {}
    for number in range(rounds):
        for one in rotated(candidates, number, rounds):
            if one.name in failed:
                continue
            try:
                found = course.run(one, records)
            except BenchError as error:
                if one.kind is not Kind.PEER:
                    raise
                failed[one.name] = str(error)
                say(f"round {number + 1}: {one.shown} is out: {error}")
                continue
            timed[one.name].append(found)
            say(f"round {number + 1}: {one.shown}: {found.rate:,.0f} records/s")
    rates = {name: [one.rate for one in own] for name, own in timed.items() if own and name not in failed}
    shown = {one.name: one.shown for one in candidates}
    return {
        "title": f"{bed.workload.shown}, {bed.workload.width} features, one record a request, {rounds} rounds",
        "model": bed.workload.shown,
        "features": bed.workload.width,
        "partitions": 8,
        "table": rates_table(
            rates, shown, {name: own[0].records for name, own in timed.items() if own}, OURS, failed
        ),
        "records_per_second": {name: Spread(tuple(own)).to_json(0) for name, own in rates.items()},
        "ratios": {
            name: ratio.to_json(3)
            for name in rates
            if name != OURS and (ratio := ratios(rates, OURS, name)) is not None
        },
        "failed": failed,
        "goals": [
            one.to_json()
            for one in goals_of(work, rates, OURS, HEAVY_GOALS if work == "heavy" else STREAM_GOALS, shown)
        ],
        "doubts": doubts(**{name: Spread(tuple(own)) for name, own in rates.items()}) if rates else [],
        "notes": [note for names, note in _NOTES if names & set(rates)],
        "rounds": [{name: own[at].to_json() for name, own in timed.items() if at < len(own)} for at in range(rounds)],
    }  # fmt: skip


def picture(work: Mapping[str, Any], candidates: Sequence[Candidate]) -> str:
    """The rates of a work as an SVG document, fastest first."""
    role = {Kind.PENSTOCK: "ours", Kind.RAW: "limit", Kind.ONNX: "limit"}
    found = [
        (one, work["records_per_second"][one.name]) for one in candidates if one.name in work["records_per_second"]
    ]
    found.sort(key=lambda pair: -pair[1]["median"])
    rows = [
        Bar(one.shown, Spread((rate["min"], rate["median"], rate["max"])), role.get(one.kind, "other"))
        for one, rate in found
    ]
    return bars(f"Records a second: {work['model']}", "records/s, logarithmic; line: smallest to largest round", rows)
