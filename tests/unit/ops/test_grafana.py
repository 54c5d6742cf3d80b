"""deploy/grafana: every metric, table and column that a panel names exists, and everything is provisioned."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from chdb_home import fresh_warehouse

from analytics.migrate import migrate
from stream_workers.ops import IngestMetrics, WorkerMetrics, new_registry
from stream_workers.ops_alerts import AlertMetrics

ROOT = Path(__file__).parents[3]
GRAFANA = ROOT / "deploy" / "grafana"
BOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text("utf-8")) for path in sorted((GRAFANA / "dashboards").glob("*.json"))
}
SOURCES = {
    one["uid"]: one["type"]
    for one in yaml.safe_load((GRAFANA / "provisioning/datasources/penstock.yml").read_text("utf-8"))["datasources"]
}
SERVICE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]["grafana"]


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in board["panels"] if one["type"] != "row"]


def expanded(sql: str) -> str:
    """A panel's question as the ClickHouse data source would send it."""
    sql = re.sub(r"\$__timeFilter\((\w+)\)", r"\1 >= toDateTime(1700000000) AND \1 <= toDateTime(1700003600)", sql)
    return sql.replace("${model:sqlstring}", "'a','b'")


@pytest.mark.parametrize("name", BOARDS)
def test_panels_have_a_source_that_is_provisioned_a_place_of_their_own_and_a_title(name: str) -> None:
    board = BOARDS[name]
    assert board["editable"] is False
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        assert panel["title"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in panels(board):
        assert panel["targets"]
        for one in (panel, *panel["targets"]):
            assert SOURCES[one["datasource"]["uid"]] == one["datasource"]["type"]


def test_every_metric_that_a_panel_asks_for_exists() -> None:
    registry = new_registry()
    WorkerMetrics(registry, "w")
    IngestMetrics(registry)
    AlertMetrics(registry)
    there: set[str] = set()
    for family in registry.collect():
        ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        there |= {family.name + end for end in ends}
    asked = {
        name
        for panel in panels(BOARDS["scoring"])
        for target in panel["targets"]
        for name in re.findall(r"\bpenstock_\w+", target["expr"])
    }
    assert len(asked) > 20
    assert asked <= there, asked - there


def test_every_question_that_a_panel_asks_can_be_asked_of_a_fresh_warehouse() -> None:
    board = BOARDS["models"]
    questions = [target["rawSql"] for panel in panels(board) for target in panel["targets"]]
    questions += [one["query"] for one in board["templating"]["list"]]
    assert len(questions) > 8
    with fresh_warehouse() as warehouse:
        migrate(warehouse)
        for sql in questions:
            assert warehouse.query(expanded(sql)).rows == (), sql
            assert "$__" not in expanded(sql)


def test_a_series_over_time_has_a_time_and_a_table_is_asked_for_as_one() -> None:
    for panel in panels(BOARDS["models"]):
        (target,) = panel["targets"]
        table = panel["type"] == "table"
        assert target["format"] == int(table)
        assert target["queryType"] == ("table" if table else "timeseries")
        assert table or re.search(r"\bAS time\b", target["rawSql"])


def test_compose_mounts_what_is_provisioned_and_keeps_grafana_on_loopback() -> None:
    mounts = dict(one.split(":")[:2] for one in SERVICE["volumes"])
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/penstock.yml").read_text("utf-8"))["providers"][0]
    assert mounts["./deploy/grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    assert SERVICE["ports"] == ["127.0.0.1:3000:3000"]
    assert SERVICE["environment"]["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    text = (GRAFANA / "provisioning/datasources/penstock.yml").read_text("utf-8")
    named = set(re.findall(r"\$(\w+)", text))
    assert named <= set(SERVICE["environment"])
    assert set(SOURCES) == {"penstock-prometheus", "penstock-clickhouse"}
    assert SOURCES["penstock-clickhouse"] == SERVICE["environment"]["GF_PLUGINS_PREINSTALL"]
