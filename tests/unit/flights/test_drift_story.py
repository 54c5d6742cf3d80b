"""The flights of the blizzard of 2013 through the drift job, and the pictures of the page that tells of them."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import date, timedelta

import pytest
from chdb_home import fresh_warehouse

from analytics.migrate import migrate
from analytics.warehouse import Warehouse
from penstock.flights.data import dataset
from penstock.flights.drift_pictures import heat_map, lines, smooth, span
from penstock.flights.drift_story import page, prepare

START = date(2013, 2, 7)
DAYS = 3


@pytest.fixture(scope="module")
def blizzard() -> Iterator[Warehouse]:
    with fresh_warehouse() as warehouse:
        migrate(warehouse)
        prepare(warehouse, START, DAYS)
        yield warehouse


def test_every_flight_is_counted_by_both_versions_and_every_landing_is_joined(blizzard: Warehouse) -> None:
    data = dataset()
    for day in range(DAYS):
        rows = data.between(START + timedelta(days=day), 1)
        landed = int((~(data.labels(rows) != data.labels(rows))).sum())
        found = blizzard.query(
            "SELECT version, anyIf(n, metric = 'psi' AND feature = '@score'), anyIf(n, metric = 'accuracy') "
            "FROM drift_days WHERE slice_by = '' AND toDate(window_start) = {day:Date} GROUP BY 1 ORDER BY 1",
            {"day": START + timedelta(days=day)},
        ).rows
        assert found == (("1", rows.stop - rows.start, landed), ("2", rows.stop - rows.start, landed))


def test_the_blizzard_is_in_drift_on_its_two_days_and_not_before(blizzard: Warehouse) -> None:
    rows = blizzard.query(
        "SELECT toDate(window_start), groupUniqArray(feature) FROM drift_days WHERE version = '1' AND slice_by = '' "
        "AND verdict = 'drift' AND kind IN ('data', 'prediction') GROUP BY 1 ORDER BY 1"
    ).rows
    found = {day: set(features) for day, features in rows}
    assert START not in found
    assert "precipitation" in found[date(2013, 2, 8)]
    assert {"overdue_share", "seats"} <= found[date(2013, 2, 9)]


def test_a_page_of_three_days_is_whole_and_its_pictures_are_xml(blizzard: Warehouse) -> None:
    text, pictures = page(blizzard)
    assert "| 2013-02-09 | blizzard Nemo |" in text
    assert "{" not in text
    for name, picture in pictures.items():
        assert name in text
        assert ET.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - our own


def test_a_heat_map_has_one_rectangle_for_neighbours_of_one_colour_and_none_where_there_is_nothing() -> None:
    days = span(date(2013, 1, 1), 4)
    values = {("rain", days[0]): 0.1, ("rain", days[1]): 0.2, ("rain", days[2]): 3.0}
    drawn = heat_map("t", ["rain"], days, values)
    legend = heat_map("t", ["rain"], days, {})
    assert drawn.count("<rect") - legend.count("<rect") == 2


def test_a_line_passes_over_what_is_not_known_and_a_mean_needs_half_of_its_days() -> None:
    assert smooth([1.0, math.nan, 3.0], 2) == [1.0, 1.0, 3.0]
    assert math.isnan(smooth([math.nan, math.nan, math.nan, 1.0], 4)[3])
    drawn = lines("t", "u", span(date(2013, 1, 1), 3), {"a": [0.5, math.nan, 0.6]}, {date(2013, 1, 2): "x"})
    points = ET.fromstring(drawn).findall("{http://www.w3.org/2000/svg}polyline")[0].attrib["points"]  # noqa: S314
    assert len(points.split()) == 2
