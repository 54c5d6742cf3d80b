"""A sliding window is what a recount of its records would give, whatever came when."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from monitor_records import NOON, summary

from stream_workers.monitor_windows import MICRO, Figures, Series, Windows, dumps, pane_from_json, pane_to_json

counts = st.lists(st.integers(0, 50), max_size=4).map(tuple)
histograms = st.dictionaries(st.sampled_from(["a", "b"]), counts, max_size=2)
records = st.builds(
    summary,
    at=st.floats(0, 40),
    rows=st.integers(0, 500),
    failed=st.integers(0, 20),
    variant=st.sampled_from(["", "control", "new"]),
    bucket=st.integers(0, 17),
    infer_us=st.integers(0, 10_000),
    scores=counts,
    features=histograms,
)


@given(st.lists(records, max_size=25))
def test_what_came_and_went_leaves_what_a_recount_finds(sent: list) -> None:  # type: ignore[type-arg]
    windows = Windows(10 * MICRO, 2 * MICRO)
    kept, gone = [], 0
    for offset, one in enumerate(sent):
        gone += len(windows.advance(one.scored_at))
        pane = windows.add(Series.of(one, False), one.scored_at, Figures.of(one), offset)
        if pane is not None:
            kept.append(one)
            assert windows.begin <= pane.start < windows.end
    assert windows.late == len(sent) - len(kept)
    inside = [one for one in kept if one.scored_at >= windows.begin]
    for variant in ("", "control", "new"):
        own = [one for one in inside if one.variant == variant]
        expected = sum((Figures.of(one) for one in own), Figures())
        series = Series("m", "1", "e" if variant else "", variant)
        assert windows.total(series) == expected
        assert sum((pane.figures for pane in windows.panes(series)), Figures()) == expected
    assert not windows.advance(windows.now + 10 * MICRO) or not dict(windows.totals())
    windows.advance(windows.now + 20 * MICRO)
    assert dict(windows.totals()) == {}


@given(st.lists(records, min_size=2, max_size=8))
def test_figures_taken_off_leave_what_was_there_before(sent: list) -> None:  # type: ignore[type-arg]
    before = sum(map(Figures.of, sent[1:]), Figures())
    one = Figures.of(sent[0])
    assert before + one - one == before
    assert before + one == one + before
    assert Figures.from_json(before.to_json()) == before


def test_a_pane_leaves_when_the_window_has_passed_it_and_not_before() -> None:
    windows = Windows(10 * MICRO, 5 * MICRO)
    series, one = Series("m", "1"), Figures(rows=1)
    windows.advance(NOON)
    assert windows.add(series, NOON, one, 0) is not None
    assert windows.advance(NOON + 10 * MICRO - 1) == []
    assert windows.add(series, NOON + 9 * MICRO, one, 1) is not None
    assert [pane.start for pane in windows.advance(NOON + 10 * MICRO)] == [NOON]
    assert windows.total(series) == one
    assert windows.add(series, NOON + 5 * MICRO - 1, one, 2) is None
    assert windows.late == 1
    assert windows.add(series, NOON + 5 * MICRO, one, 3) is not None
    assert windows.advance(NOON) == []
    assert windows.now == NOON + 10 * MICRO, "time does not go back"


def test_a_record_that_comes_again_counts_once() -> None:
    windows = Windows(10 * MICRO, 5 * MICRO)
    series, one = Series("m", "1"), Figures(rows=7)
    windows.advance(NOON)
    first = windows.add(series, NOON, one, 4)
    assert first is not None
    assert windows.add(series, NOON, one, 4) is None
    again = Windows(10 * MICRO, 5 * MICRO)
    again.advance(NOON)
    again.restore(pane_from_json(pane_to_json(first)))
    assert again.add(series, NOON, one, 4) is None
    assert again.total(series) == windows.total(series) == one
    assert dumps(pane_to_json(again.panes(series)[0])) == dumps(pane_to_json(first))


def test_a_quantile_lies_in_the_bucket_that_holds_it() -> None:
    assert math.isnan(Figures().latency_ms(0.99))
    figures = Figures(latency=(0, 0, 50, 0, 50))  # 50 rows in (2, 4] ms, 50 in (8, 16] ms
    assert figures.latency_ms(0.5) == 4.0
    assert figures.latency_ms(0.25) == 3.0
    assert figures.latency_ms(0.75) == 12.0
    assert figures.latency_ms(1.0) == 16.0
    assert Figures(latency=(10,)).latency_ms(0.5) == 0.5


def test_only_errors_that_are_not_forgiven_count() -> None:
    figures = Figures.of(summary(rows=10, failed=3)) + Figures.of(summary(rows=10, failed=2, code="MALFORMED"))
    assert figures.failed(but=frozenset({"MALFORMED"})) == 3
    assert figures.failed(but=frozenset()) == 5


@pytest.mark.parametrize(("width", "pane"), [(10, 3), (0, 1), (5, 10), (5, 0)])
def test_a_window_is_a_whole_number_of_panes(width: int, pane: int) -> None:
    with pytest.raises(ValueError, match="whole number of panes"):
        Windows(width, pane)
