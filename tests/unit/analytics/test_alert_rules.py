"""Alert rules: what a file may say, what each mistake is told, and that those that are shipped are sound."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from analytics.alert_catalogue import CATALOGUE
from analytics.alert_rules import AlertRuleError, Condition, parse_rules, read_rules, shipped_rules

RULE = """
[[rules]]
name = "errors"
metric = "error_share"
when = "> 1%"
window = "10m"
for = "2m"
keep_firing_for = "5m"
severity = "critical"
min_n = 100
labels = { team = "ml" }
where = { model = ["a", "b"], version = "3" }
summary = "{value:.1%} of {n} of {model} fail ({team})"
"""


def changed(old: str, new: str) -> str:
    assert old in RULE
    return RULE.replace(old, new)


def test_every_key_is_read() -> None:
    (rule,) = parse_rules(RULE, "alerts.toml")
    assert rule.condition == Condition(">", 0.01)
    assert (rule.window, rule.hold, rule.keep_firing) == tuple(timedelta(minutes=one) for one in (10, 2, 5))
    assert (rule.severity, rule.min_n, rule.labels) == ("critical", 100, {"team": "ml"})
    assert rule.where == {"model": ("a", "b"), "version": ("3",)}
    assert rule.source == "rule"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[[rules]]\nname = "x"\nwhen = "> 1"',
            "rules[0] (x): it names no metric: give it `metric`, one of",
        ),
        (
            changed("error_share", "error_shares"),
            "(errors): metric: no such metric 'error_shares'; did you mean",
        ),
        (
            changed('metric = "error_share"', 'metric = "error_share"\nsql = "SELECT 1 AS value"'),
            "sql: either it or metric",
        ),
        (changed('metric = "error_share"', 'sql = "DROP TABLE predictions"'), "sql: only questions are answered here"),
        (
            changed('metric = "error_share"', 'sql = "SELECT 1 AS value"'),
            "window: a question of its own says",
        ),
        (
            changed('"> 1%"', '"over 1"'),
            "when: expected a comparison such as '> 0.01', '>= 5%' or '== 1', got",
        ),
        (changed('when = "> 1%"\n', ""), "rules[0] (errors): when: is missing"),
        (changed('for = "2m"', 'for = "soon"'), "for: expected a duration such as '48h', got 'soon'"),
        (changed('for = "2m"', 'fro = "2m"'), "fro: no such key; did you mean for?"),
        (changed('"critical"', '"fatal"'), "severity: expected one of info, warning, critical, got 'fatal'"),
        (changed("min_n = 100", "min_n = -1"), "min_n: expected a whole number above 0, got -1"),
        (changed("team =", "severity ="), "labels: expected names of letters, digits and '_', none of alertname"),
        (changed('"ml"', "3"), "labels.team: expected a text that is not empty, got 3"),
        (changed("version =", "versio ="), "where.versio: error_share has no such label; it has model, version"),
        (changed("{n}", "{m}"), "summary: nothing fills {m}; there are model"),
        (changed("{n}", "{n.real}"), "summary: {n.real} is no plain name"),
        (changed("{n}", "{n"), "summary: "),
        (RULE + RULE, "rules[1] (errors): name: there is another rule of this name"),
        (changed('"errors"', '"a b"'), "rules[0] (a b): name: expected a name of letters"),
        ("[rules]\nname = 1", "rules: expected a list of tables, [[rules]]"),
        ("rule = 3", "rule: no such key; there is rules"),
        ("[[rules]", "is not TOML"),
        ('[[rules]]\nname = "x"\nmetric = "ingest_lag"\nwhen = "> 1"\nmin_n = 5', "min_n: ingest_lag has no n"),
    ],
)
def test_a_mistake_names_file_rule_and_key(text: str, said: str) -> None:
    with pytest.raises(AlertRuleError) as caught:
        parse_rules(text, "alerts.toml")
    assert str(caught.value).startswith("alerts.toml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(AlertRuleError, match=r"none\.toml cannot be read: No such file"):
        read_rules(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(AlertRuleError, match=r"latin\.toml is not UTF-8: .* at byte 8"):
        read_rules(tmp_path / "latin.toml")
    (tmp_path / "empty.toml").write_text("")
    assert read_rules(tmp_path / "empty.toml") == ()


@pytest.mark.parametrize(
    ("when", "value", "holds"),
    [("> 1", 1.0, False), (">= 1", 1.0, True), ("< -0.5", -1.0, True), ("== 2", 2.0, True), ("!= 2", 2.0, False)],
)
def test_a_condition_compares_as_it_says_and_never_holds_for_what_is_no_number(
    when: str, value: float, holds: bool
) -> None:
    (rule,) = parse_rules(changed('"> 1%"', f'"{when}"'), "alerts.toml")
    assert rule.condition.holds(value) is holds
    assert not rule.condition.holds(float("nan"))


def test_the_shipped_rules_are_sound_and_flap_for_nobody() -> None:
    rules = shipped_rules()
    assert read_rules("") == rules
    assert {rule.metric for rule in rules} <= set(CATALOGUE)
    for rule in rules:
        known = CATALOGUE[rule.metric]
        # A share of a handful is no share: whatever is a part of requests has to say of how many at least.
        assert rule.min_n >= 100 or not rule.metric.endswith(("_share", "_p99_ms"))
        assert known.sql or known.series
    assert "monitor" not in {one.source for one in CATALOGUE.values()}, "what the monitor reports no rule may end"
