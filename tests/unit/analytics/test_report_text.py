"""The report in a terminal: it fits, it says what the page says, and without colours nothing is lost."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

import pytest
import report_readings as made
from rich.cells import cell_len
from rich.console import Console

from analytics.readings import Reading
from analytics.report_axes import Reach
from analytics.report_text import bar, report
from benchmarks.simulated_reading import simulated_reading


def printed(reading: Reading, width: int = 80) -> str:
    out = StringIO()
    Console(file=out, width=width, color_system=None).print(report(reading))
    return out.getvalue()


@pytest.mark.parametrize(
    "reading", [simulated_reading(9), simulated_reading(9, lost=0.04), made.three_arms(), made.undefined()]
)
def test_it_fits_into_eighty_columns(reading: Reading) -> None:
    lines = printed(reading).splitlines()
    assert max(cell_len(line) for line in lines) <= 80
    assert not any("…" in line for line in lines), "nothing is cut"


def test_it_says_decision_checks_lifts_and_guardrails() -> None:
    said = printed(simulated_reading(9), 200)
    assert "KEEP GOING  After 43,362 units bought is still open" in said
    assert "✓ Split as planned: ranker-6 21,726 units, 50.1% (planned 50%)" in said
    assert "+7.5%  −3.2% to +18.2%" in said
    assert "5% rise" in said
    assert "✓ safe" in said
    assert "4.5 days, 43,403 of 65,112 units" in said
    assert "O'Brien-Fleming spending, 14 planned looks, alpha 5%, power 80%" in said


def test_a_broken_split_is_said_above_and_in_every_table() -> None:
    said = printed(simulated_reading(9, lost=0.04), 200)
    assert "✗ Sample ratio mismatch" in said
    assert "✗ Not to be trusted: the units do not split as planned" in said
    assert said.count("(not to be trusted)") == 2
    assert said.index("Not to be trusted") < said.index("Metrics")


def test_a_result_that_is_not_defined_has_its_reason() -> None:
    assert f"revenue, ranker-7: {made.REASON}" in printed(made.undefined())


def test_where_nothing_counts_it_says_what_to_do() -> None:
    assert "look again then" in printed(made.nobody_counts(timedelta(hours=1)), 200)
    assert "`penstock experiments start search-ranking` starts it" in printed(made.not_started(), 200)


def test_brackets_in_names_are_text() -> None:
    assert "<script>" in printed(made.hostile(), 200)


@pytest.mark.parametrize(
    ("shown", "limit", "drawn"),
    [
        (Reach(-0.5, 0.5, 0.0), None, "··┣━━●━━┫··"),
        (Reach(0.2, 0.6, 0.4), None, "·····┊┣●┫··"),
        (Reach(-9.0, 9.0, 0.2), None, "◂━━━━┿●━━━▸"),
        (Reach(None, None, None), 0.8, "·····┊···╎·"),
        (Reach(None, None, 5.0), None, "·····┊·····"),
        (Reach(float("-inf"), 0.0, -0.4), None, "◂━━●━┫·····"),
    ],
)
def test_an_interval_is_a_bar_of_characters(shown: Reach, limit: float | None, drawn: str) -> None:
    assert bar(shown, 1.0, limit, width=11) == drawn
