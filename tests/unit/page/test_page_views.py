"""What the page's views find on real flights, held to plain counts; and what they say where there is nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest

from analytics.dashboard import alerts, console, drift, experiments, models, overview
from analytics.dashboard.charts import Bars, Chart, Level, Line
from analytics.dashboard.drift_html import content as drift_content
from analytics.dashboard.overview_html import content as overview_content
from analytics.dashboard.spans import SPANS, span, window
from analytics.definitions import DefinitionError
from analytics.warehouse import Warehouse
from benchmarks.page_world import World
from penstock.demo import EXPERIMENT, MODEL
from penstock.docs import folder
from penstock.sql_page import questions as sql_questions

NOON = datetime(2026, 11, 25, 12, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize("one", SPANS, ids=lambda one: one.key)
def test_a_window_ends_with_the_step_that_goes_on_and_has_whole_steps(one: object) -> None:
    assert isinstance(one, type(SPANS[0]))
    found = window(one, NOON, NOON)
    steps = found.steps()
    assert steps[0] == found.start
    assert steps[-1] <= NOON < steps[-1] + one.step
    assert not found.stale
    assert span("no such") == SPANS[0]


def test_a_window_in_which_nothing_came_gives_way_to_the_newest_there_is() -> None:
    found = window(span("1h"), NOON, NOON - timedelta(days=3))
    assert found.stale
    assert found.steps()[-1] <= NOON - timedelta(days=3) < found.end
    assert not window(span("1h"), NOON, None).stale


def test_the_overview_counts_what_is_in_the_log(flights: Warehouse, world: World) -> None:
    found = overview.overview(flights, span("6h"), world.now)
    rows = flights.query("SELECT count(), countIf(code != 'OK') FROM predictions").rows[0]
    assert (found.predictions, found.rows, found.errors) == (world.predictions, *rows)
    assert sum(one.rows for one in found.served) == found.rows
    assert {(one.version, one.variant) for one in found.served} == {("1", "logistic"), ("2", "mlp"), ("2", "")}
    batches = flights.query("SELECT count(), sum(rows) FROM batch_summaries").rows[0]
    assert (sum(one.batches for one in found.devices), sum(one.rows for one in found.devices)) == batches
    assert sum(one.batches for one in found.steps) == batches[0]


def test_batches_that_share_a_summary_count_each_and_as_their_mean(nothing: Warehouse) -> None:
    nothing.command(
        """
        INSERT INTO batch_summaries
            (batch_id, worker, device, model, topic, scored_at, batches, requests, rows, infer_us, log_time)
        SELECT
            'b', 'w', 'cpu', 'm', 'scoring.requests', toDateTime64('2026-11-25 12:00:00', 6, 'UTC'),
            [4, 1, 0][number + 1], 1, [60, 12, 1][number + 1], [80000, 9000, 50][number + 1], '2026-11-25 12:00:00'
        FROM numbers(3)
        """
    )
    found = overview.overview(nothing, span("1h"), NOON)
    assert [(one.batches, one.rows) for one in found.devices] == [(5, 73)]
    assert sum(one.batches for one in found.steps) == 5
    assert (found.batch_p50, found.batch_p95) == (15.0, 15.0)
    assert found.stages["inference"].p50 == pytest.approx(20.0, rel=0.1)


def test_the_overviews_latencies_are_those_of_the_log_and_its_stages_add_up(flights: Warehouse, world: World) -> None:
    found = overview.overview(flights, span("6h"), world.now)
    exact = flights.query(
        "SELECT quantilesExact(0.5, 0.99)(dateDiff('microsecond', sent_at, scored_at)) FROM predictions"
    ).scalar()
    assert found.latency is not None
    assert found.latency.p50 == pytest.approx(exact[0] / 1000, rel=0.03)
    assert found.latency.p99 == pytest.approx(exact[1] / 1000, rel=0.03)
    by_version = flights.query(
        "SELECT version, variant, quantileExact(0.5)(dateDiff('microsecond', sent_at, scored_at)) FROM predictions "
        "GROUP BY ALL"
    ).rows
    shown = {(one.version, one.variant): one.latency for one in found.served}
    for version, variant, p50 in by_version:
        pair = shown[(version, variant)]
        assert pair is not None
        assert pair.p50 == pytest.approx(p50 / 1000, rel=0.03)
    assert [one.latency is not None for one in found.steps] == [one.rows > 0 for one in found.steps]
    weighted = flights.query(
        "SELECT quantilesExactWeighted(0.5, 0.99)(queue_us / rows, toUInt64(rows)) FROM batch_summaries"
    ).scalar()
    assert found.stages["queue"].p50 == pytest.approx(weighted[0] / 1000, rel=0.03)
    assert 20 <= found.stages["publish"].p50 <= found.stages["publish"].p99 <= 91
    assert found.stages["inference"].p50 < found.stages["queue"].p50 < found.latency.p50


def test_the_overview_is_answered_from_the_projection_and_not_from_the_rows(flights: Warehouse, world: World) -> None:
    about = {"start": "2020-01-01 00:00:00.000000", "end": "2040-01-01 00:00:00.000000", "step": 60}
    for sql in (overview._COUNTS, overview._LATENCIES):
        values = {key: value for key, value in about.items() if f"{{{key}:" in sql}
        plan = "\n".join(row[0] for row in flights.query(f"EXPLAIN {sql}", values).rows)
        assert "ReadFromMergeTree (per_minute)" in plan, plan


def test_experiments_are_listed_with_their_last_look_and_read_again(flights: Warehouse, world: World) -> None:
    (one,) = experiments.experiments(flights)
    assert (one.name, one.state, one.looks, one.model) == (EXPERIMENT, "running", 2, MODEL)
    assert one.reason
    for look in (None, 1, 2):
        found = experiments.reading(flights, EXPERIMENT, look)
        assert (found.number, found.plan) == (look or 2, world.plan)
    with pytest.raises(DefinitionError, match="has no look 3: it has 2"):
        experiments.reading(flights, EXPERIMENT, 3)
    with pytest.raises(DefinitionError, match="there is no experiment 'none'"):
        experiments.reading(flights, "none")


def test_drift_has_a_cell_for_each_feature_and_window_and_its_histogram_behind_it(
    flights: Warehouse, world: World
) -> None:
    found = drift.drift(flights, drift.Scope(MODEL, "2"))
    assert found is not None
    assert found.features[0] == "@score"
    assert len(found.cells) == len(found.features) * len(found.windows) == 15 * 8
    place = drift.worst_cell(found)
    assert place is not None
    cell = drift.detail(flights, found.scope, *place)
    assert cell.figures[0].start == place[1]
    assert sum(one.reference for one in cell.bins) == pytest.approx(1)
    assert sum(one.current for one in cell.bins) == pytest.approx(1)
    assert {one.metric for one in found.performance} >= {"auc", "cbpe_auc", "log_loss"}
    few = drift.drift(flights, drift.Scope("no such", "9"), "ks", 3)
    assert few is not None
    assert (few.scope, len(few.windows), few.metric) == (found.scope, 3, "ks")


def test_windows_of_two_lengths_are_shown_one_length_at_a_time(nothing: Warehouse) -> None:
    for start, value in (("2026-01-28", 0.3), ("2026-01-01", 0.7)):
        nothing.query(
            """INSERT INTO drift_results
            (model, version, window_start, window_end, kind, feature, metric, value, n, verdict)
            SELECT 'm', '1', {start:DateTime64(6, 'UTC')}, toDateTime64('2026-01-29', 6, 'UTC'), 'data', 'x', 'psi',
                {value:Float64}, 9, 'drift'""",
            {"start": start, "value": value},
        )
    day = drift.drift(nothing, drift.Scope("m", "1"))
    weeks = drift.drift(nothing, drift.Scope("m", "1", seconds=28 * 86_400))
    assert day is not None
    assert weeks is not None
    assert [one.value for one in day.cells.values()] == [0.3]
    assert [one.value for one in weeks.cells.values()] == [0.7]
    assert "from 0.583" in drift_content(replace(weeks, metric="chi2"), None, 35), "colours are shares of the largest"
    assert day.days == weeks.days == (datetime(2026, 1, 28, tzinfo=UTC),)
    assert "28 days to 28 Jan 2026" in drift_content(
        weeks, drift.detail(nothing, weeks.scope, "x", weeks.windows[0]), 35
    )


def test_alerts_are_those_that_are_on_and_every_change_before(flights: Warehouse, world: World) -> None:
    found = alerts.alerts(flights, world.now)
    assert [one.state for one in found.now] == ["firing", "firing", "pending"]
    assert alerts.firing(flights) == 2
    assert [one.changed_at for one in found.history] == sorted((one.changed_at for one in found.history), reverse=True)
    assert found.silences[0].matchers == ("rule=drift-psi", "feature=precipitation")
    assert alerts.alerts(flights, world.now + timedelta(days=2)).silences == ()


def test_a_version_is_live_where_it_scored_and_serves_where_control_or_age_says_so(
    flights: Warehouse, world: World, nothing: Warehouse
) -> None:
    def version(name: str, *, newest: bool) -> models.Version:
        return models.Version(MODEL, name, newest, ("x FP32 rows",), (), 1, 1, {}, {}, {})

    known = [version("1", newest=False), version("2", newest=True)]
    found = models.models(flights, known, world.now)
    assert [found.stage(one) for one in known] == ["in an experiment", "serves"]
    assert found.live[(MODEL, "1")].variants == (f"{EXPERIMENT}: logistic",)
    (_, gone) = models.models(flights, known[1:], world.now).versions
    assert (gone.version, found.stage(gone)) == ("1", "broken")
    empty = models.models(nothing, known, world.now)
    assert [empty.stage(one) for one in known] == ["kept", "serves"]


def test_an_empty_warehouse_has_views_that_say_so(nothing: Warehouse) -> None:
    found = overview.overview(nothing, span("1h"), NOON)
    assert (found.predictions, found.rows, found.newest, found.latency) == (0, 0, None, None)
    assert "penstock up" in overview_content(found, (), NOON)
    assert experiments.experiments(nothing) == []
    assert drift.drift(nothing, drift.Scope("", "")) is None
    assert alerts.alerts(nothing, NOON) == alerts.Alerts((), (), ())


def test_saved_questions_are_those_of_the_documentation() -> None:
    page = (folder() / "sql.md").read_text("utf-8")
    titles = [line.split(". ", 1)[1] for line in page.splitlines() if line.startswith("## ")]
    saved = console.questions()
    assert [one.title for one in saved] == titles
    assert [one.sql for one in saved] == [sql for sql, _ in sql_questions(page)]


HOSTILE = "</script><img src=x onerror=alert(1)>'\"&%{y}--s1"


class Tags(HTMLParser):
    """Collects elements and the figures that charts are drawn from."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.handlers: list[str] = []
        self.figures: list[dict[str, object]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.figures += [json.loads(value or "") for name, value in attrs if name == "data-figure"]


def test_a_charts_names_are_text_to_the_browser_and_to_plotly() -> None:
    chart = Chart("k", HOSTILE, HOSTILE, [Bars(HOSTILE, [HOSTILE], [1.0])], levels=[Level(1.0, HOSTILE)])
    tags = Tags()
    tags.feed(chart.markup())
    assert set(tags.names) == {"figure", "figcaption", "strong", "span", "div"}
    assert tags.handlers == []
    text = json.dumps(tags.figures)
    assert "<" not in text
    assert "%{y}-" not in text


def test_a_chart_has_gaps_where_a_value_is_no_number_and_lines_for_levels() -> None:
    line = Line("a", [NOON, NOON + timedelta(hours=1)], [float("nan"), 2.0])
    figure = Chart("k", "t", "", [line], levels=[Level(0.2, "limit")], log=True).figure()
    assert [one["y"] for one in figure["data"]] == [[None, 2.0], [0.2, 0.2]]
    assert figure["data"][0]["x"] == ["2026-11-25 12:00:30", "2026-11-25 13:00:30"]
    assert figure["layout"]["yaxis"]["tickvals"]
