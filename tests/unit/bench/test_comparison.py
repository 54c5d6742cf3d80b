"""Ratios within a round, goals, what fell behind, and the table and picture that are published."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from penstock.bench.campaign import goals_before
from penstock.bench.chart import Bar, bars
from penstock.bench.comparison import Goal, goals_of, goals_table, rates_table, ratios, regressions, report
from penstock.bench.figures import Spread

RATES = {"ours": [100.0, 60.0, 120.0], "peer": [10.0, 20.0, 30.0], "short": [1.0]}
SHOWN = {"ours": "Ours", "peer": "A peer", "gone": "Another"}


def test_ratios_are_taken_within_a_round_not_of_medians() -> None:
    found = ratios(RATES, "ours", "peer")
    assert found is not None
    assert found.values == (10.0, 3.0, 4.0)
    # Of the medians it would be 5.
    assert found.median == 4.0


def test_there_is_no_ratio_to_what_was_not_measured_in_every_round() -> None:
    assert ratios(RATES, "ours", "short") is None
    assert ratios(RATES, "ours", "gone") is None
    assert ratios({}, "ours", "peer") is None


def test_goals_are_the_median_ratios_of_whoever_was_measured() -> None:
    (goal,) = goals_of("stream", RATES, "ours", {"peer": 5.0, "gone": 2.0}, SHOWN)
    assert (goal.what, goal.limit, goal.measured, goal.met) == ("Ours against A peer", 5.0, 4.0, False)


@pytest.mark.parametrize(("measured", "at_most", "met"), [(95.0, True, True), (95.1, True, False), (95.0, False, True)])
def test_a_goal_is_met_at_its_limit(measured: float, at_most: bool, met: bool) -> None:
    assert Goal("w", "mean", 95.0, measured, at_most).met is met


def goal(measured: float, work: str = "stream", **over: Any) -> dict[str, Any]:
    return {**Goal(work, "ratio", 1.0, measured, **over).to_json()}


def test_a_ratio_below_four_fifths_of_the_committed_one_is_a_regression() -> None:
    assert regressions([goal(0.8)], [goal(1.0)]) == []
    (line,) = regressions([goal(0.79)], [goal(1.0)])
    assert line == "stream: ratio is 0.79, below 0.8 of the committed 1"


def test_milliseconds_and_works_without_a_counterpart_are_not_compared() -> None:
    assert regressions([goal(1.0, at_most=True, unit="ms")], [goal(9.0, at_most=True, unit="ms")]) == []
    assert regressions([goal(0.1, work="heavy")], [goal(1.0)]) == []


def test_a_run_of_some_works_leaves_the_others_to_the_document_before(tmp_path: Path) -> None:
    for name, goals in (
        ("2026-01-01-peers.json", [goal(9.0), goal(1.0, work="heavy")]),
        ("2026-01-02-peers.json", [goal(1.0)]),
        ("2026-01-03-bulk.json", None),
    ):
        (tmp_path / name).write_text(json.dumps({"goals": goals}))
    committed = goals_before(tmp_path)
    assert regressions([goal(0.9), goal(0.9, work="heavy")], committed) == []
    assert len(regressions([goal(0.7), goal(0.7, work="heavy")], committed)) == 2
    assert goals_before(tmp_path / "2026-01-02-peers.json") == [goal(1.0)]
    broken = tmp_path / "2026-01-03-peers.json"
    broken.write_text("{")
    with pytest.raises(ValueError, match=re.escape(f"{broken}: Expecting")):
        goals_before(tmp_path)
    with pytest.raises(ValueError, match=r"2026-01-03-bulk\.json: it is no document"):
        goals_before(tmp_path / "2026-01-03-bulk.json")


def test_the_table_shows_medians_ends_ratios_and_who_is_out() -> None:
    lines = rates_table(RATES, SHOWN, {"ours": 600, "peer": 30}, "ours", {"gone": "does not answer"})
    assert "| A peer | 20 | 10 to 30 | 30 | 4.00 (3.00 to 10.00) |" in lines
    assert any("not timed: does not answer" in line for line in lines)


def test_the_report_says_machine_goals_and_doubts() -> None:
    document = {
        "broker": "Apache Kafka, one node",
        "machine": {
            "date": "2026-11-25T10:00:00+00:00", "cores": 2, "processor": "AMD", "memory_gib": 23.5,
            "python": "3.11.7", "versions": {"kafka": "4.4.0"},
        },
        "goals": [goal(0.5), goal(4.0, at_most=True, unit="ms")],
        "works": {"stream": {"title": "small", "table": ["| a |"], "notes": ["n"], "doubts": ["too busy"]}},
        "peers": {"faust": {"faust-streaming": "0.15.3"}},
    }  # fmt: skip
    text = report(document, "picture.svg")
    for part in ("2026-11-25", "kafka 4.4.0", "picture.svg", "**not reached**", "too busy", "faust-streaming 0.15.3"):
        assert part in text
    assert "at most 1 ms" in "\n".join(goals_table(document["goals"]))  # type: ignore[arg-type]


def test_the_picture_is_svg_with_a_longer_bar_for_more() -> None:
    text = bars(
        "Rates <now>", "records/s", [Bar("fast", Spread((900.0, 1000.0)), "ours"), Bar("slow", Spread((2.0,)), "other")]
    )
    root = ET.fromstring(text)  # noqa: S314 - our own text
    space = "{http://www.w3.org/2000/svg}"
    widths = [float(one.attrib["width"]) for one in root.iter(f"{space}rect") if one.attrib["width"] != "100%"]
    assert widths[0] > widths[1] > 0
    labels = [one.text for one in root.iter(f"{space}text")]
    assert "Rates <now>" in labels
    assert {"fast", "slow", "950", "2"} <= set(labels)
