"""deploy/prometheus and deploy/alertmanager, checked by the programs that read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_programs import AMTOOL, PROMTOOL, run

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES: dict[str, Any] = yaml.safe_load((PROMETHEUS / "rules.yml").read_text("utf-8"))
TESTS: dict[str, Any] = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text("utf-8"))
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}


@pytest.mark.usefixtures("prometheus_runs_here")
def test_promtool_takes_the_configuration_with_its_rules() -> None:
    code, said = run(PROMTOOL, "check", "config", "--lint=all", "--lint-fatal", PROMETHEUS / "prometheus.yml")
    assert code == 0, said
    code, said = run(PROMTOOL, "check", "rules", "--lint=all", "--lint-fatal", PROMETHEUS / "rules.yml")
    assert code == 0, said
    assert f"{len(ALERTS)} rules found" in said


@pytest.mark.usefixtures("prometheus_runs_here")
def test_promtool_finds_the_rules_to_fire_when_they_should_and_a_wrong_one_would_be_noticed(tmp_path: Path) -> None:
    code, said = run(PROMTOOL, "test", "rules", PROMETHEUS / "rules_test.yml")
    assert code == 0, said
    text = (PROMETHEUS / "rules.yml").read_text("utf-8")
    assert "> 0.01" in text
    (tmp_path / "rules.yml").write_text(text.replace("> 0.01", "> 0.1"), "utf-8")
    (tmp_path / "rules_test.yml").write_bytes((PROMETHEUS / "rules_test.yml").read_bytes())
    code, said = run(PROMTOOL, "test", "rules", tmp_path / "rules_test.yml")
    assert code != 0
    assert "PenstockErrors" in said


@pytest.mark.usefixtures("prometheus_runs_here")
def test_alertmanager_takes_its_configuration() -> None:
    code, said = run(AMTOOL, "check-config", ROOT / "deploy" / "alertmanager" / "alertmanager.yml")
    assert code == 0, said


def test_every_rule_is_tested_has_a_severity_and_says_what_is_wrong() -> None:
    tested = {one["alertname"] for test in TESTS["tests"] for one in test["alert_rule_test"] if one["exp_alerts"] != []}
    assert tested == set(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("info", "warning", "critical"), name
        assert rule["annotations"]["summary"], name


def test_what_alertmanager_inhibits_are_alerts_there_are() -> None:
    from analytics.alert_rules import shipped_rules

    config = yaml.safe_load((ROOT / "deploy" / "alertmanager" / "alertmanager.yml").read_text("utf-8"))
    there = set(ALERTS) | {one.name for one in shipped_rules()}
    for rule in config["inhibit_rules"]:
        for one in (*rule["source_matchers"], *rule["target_matchers"]):
            names = one.partition("=")[2].strip('~"').split("|")
            assert set(names) <= there, one
