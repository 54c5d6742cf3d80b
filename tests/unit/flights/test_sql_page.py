"""The page of SQL: its queries run on real flights, its answers are what they give, and its figures are Python's."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.resources import files

import numpy as np
import pytest
from chdb_home import fresh_warehouse

from analytics.definitions import Plan
from analytics.experiment_store import ExperimentStore
from analytics.migrate import migrate
from analytics.readonly import check_read_only
from analytics.warehouse import Warehouse
from models.routing import Router
from penstock import sql_page
from penstock.demo import EXPERIMENT, definition, experiment
from penstock.docs import folder
from penstock.flights.data import dataset
from penstock.flights.evaluation import auc, log_loss

PAGE = (folder() / sql_page.PAGE).read_text("utf-8")
QUESTIONS = list(sql_page.questions(PAGE))


@pytest.fixture(scope="module")
def april() -> Iterator[Warehouse]:
    """A warehouse with the flights of April 2013, scored and looked at."""
    with fresh_warehouse() as warehouse:
        migrate(warehouse)
        sql_page.prepare(warehouse, datetime.now(UTC))
        yield warehouse


def test_the_page_asks_ten_questions() -> None:
    assert len(QUESTIONS) == 10
    assert PAGE.count("```sql") == 10
    assert all(answer.count("\n") >= 3 for _, answer in QUESTIONS)


@pytest.mark.parametrize("number", range(1, 11))
def test_the_answer_on_the_page_is_what_the_query_gives(april: Warehouse, number: int) -> None:
    sql, answer = QUESTIONS[number - 1]
    assert sql_page.table(april.query(sql)) + "\n" == answer, "run: python -m penstock.sql_page"


@pytest.mark.parametrize("number", range(1, 11))
def test_penstock_sql_lets_the_query_pass(number: int) -> None:
    check_read_only(QUESTIONS[number - 1][0])


def test_the_rows_are_those_of_the_flights(april: Warehouse) -> None:
    data = dataset()
    rows = data.between(sql_page.START, sql_page.DAYS)
    labels = data.labels(rows)
    counts = april.query("SELECT count(), uniqExact(request_id) FROM predictions").rows[0]
    assert counts == (rows.stop - rows.start, rows.stop - rows.start)
    assert april.query("SELECT count(), sum(value) FROM outcomes FINAL").rows[0] == (
        int((~np.isnan(labels)).sum()),
        float(np.nansum(labels)),
    )
    tails = [tail for tail in dict.fromkeys(data.flights.tail_number[rows].tolist()) if tail]
    met = dict(zip(tails, Router([experiment()]).assign_many(EXPERIMENT, tails), strict=True))
    logged = april.query("SELECT user_id, variant FROM experiment_units").rows
    assert dict(logged) == {tail: one.name for tail, one in met.items() if one}
    check = files("analytics").joinpath("queries", "assignment_check.sql").read_text("utf-8")
    assert april.query(check, {"slack": 5}).rows == ((EXPERIMENT, len(tails), 0, ""),)


def test_sql_and_python_agree_on_how_good_a_model_is(april: Warehouse) -> None:
    rows = april.query(
        "SELECT score, value FROM labelled_predictions WHERE variant = 'mlp' ORDER BY request_id, row_number"
    ).rows
    scores, labels = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    quality = next(answer for sql, answer in QUESTIONS if "arrayAUC" in sql)
    cells = [cell.strip() for cell in quality.splitlines()[3].strip("|").split("|")]
    assert cells[0] == "mlp"
    assert float(cells[2]) == pytest.approx(log_loss(labels, scores), abs=5e-5)
    assert float(cells[4]) == pytest.approx(auc(labels, scores), abs=5e-5)


def test_a_look_finds_the_ratio_that_the_flights_have(april: Warehouse) -> None:
    started = april.query("SELECT started_at FROM experiment_runs").scalar()
    plan = Plan(definition()).start(started)
    found = {(one.metric, one.variant): one for one in ExperimentStore(april).sums(plan, datetime.now(UTC))}
    assert found["correct", "mlp"].n == 0, "as of now the windows have not closed"
    later = datetime.fromtimestamp(datetime.now(UTC).timestamp() + 3600, UTC)
    found = {(one.metric, one.variant): one for one in ExperimentStore(april).sums(plan, later)}
    rows = april.query(
        "SELECT variant, count(), sum((score > 0.5) = (value > 0.5)), uniqExact(user_id) FROM labelled_predictions "
        "WHERE experiment != '' GROUP BY variant"
    ).rows
    for variant, flights, right, _ in rows:
        one = found["correct", variant]
        assert (one.x, one.y, one.events) == (flights, right, flights)
        assert found["errors", variant].y == 0
        assert one.n == april.query(f"SELECT countIf(variant = '{variant}') FROM experiment_units").scalar()  # noqa: S608
