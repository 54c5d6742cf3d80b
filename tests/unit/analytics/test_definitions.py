"""Definitions: what a file may say, what each mistake is told, and what becomes of a run."""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from analytics.definition_reader import check_layers, from_json, from_toml, plan_from_json, read
from analytics.definitions import DefinitionError, Effect, Plan, Source
from models.routing import Experiment, Router

FILE = """
name = "flight-delay-mlp"
hypothesis = "The network calls more delays right."
model = "flight-delay"
control = "logistic"
layer = "home"
layer_ranges = [[0, 5000]]
minimum_runtime = "36h"
maturity_delay = "10m"
slot = "1s"

[[variants]]
name = "logistic"
version = "1"
share = "50%"

[[variants]]
name = "mlp"
version = "2"
share = 0.25

[[metrics]]
name = "correct"
kind = "ratio"
numerator = { outcome = "arr_delay_15", value = "correct", threshold = 0.4 }
denominator = { outcome = "arr_delay_15", value = "one" }
window = "48h"
mde = "2%"
covariate_window = "14d"

[[metrics]]
name = "late"
kind = "proportion"
outcome = "arr_delay_15"
direction = "decrease"
mde = 0.005

[[metrics]]
name = "latency"
kind = "quantile"
prediction = "latency_ms"
percentile = 99
direction = "decrease"

[[guardrails]]
metric = "latency"
margin = "5%"

[test]
kind = "group-sequential"
spending = "power"
spending_parameter = 3
looks = 10
alpha = 0.01
"""
GOOD: dict[str, Any] = {
    "name": "e",
    "hypothesis": "b is better",
    "model": "m",
    "control": "a",
    "variants": [{"name": "a", "version": "1", "share": 0.5}, {"name": "b", "version": "2", "share": "50%"}],
    "metrics": [
        {"name": "bought", "kind": "proportion", "outcome": "purchase", "window": "48h"},
        {"name": "speed", "kind": "quantile", "prediction": "latency_ms", "percentile": 99},
    ],
    "guardrails": [{"metric": "speed", "margin": "5%"}],
    "test": {"kind": "always-valid"},
}


def test_a_file_says_all_there_is_to_say(tmp_path: Path) -> None:
    path = tmp_path / "experiment.toml"
    path.write_text(FILE, "utf-8")
    found = from_toml(path)
    assert found.shares() == {"logistic": 0.5, "mlp": 0.25}
    assert (found.minimum_runtime, found.slot) == (timedelta(hours=36), timedelta(seconds=1))
    correct, late, latency = found.metrics
    assert correct.source == Source("arr_delay_15", value="correct", threshold=0.4)
    assert (correct.window, correct.covariate_window) == (timedelta(hours=48), timedelta(days=14))
    assert (correct.mde, late.mde) == (Effect(0.02, relative=True), Effect(0.005, relative=False))
    assert (late.source.aggregate, latency.source.aggregate, latency.only_with_events) == ("any", "mean", True)
    assert (found.test.alpha, found.test.spending_parameter, found.test.power) == (0.01, 3.0, 0.8)
    assert from_json(found.to_json()) == found


def test_what_is_left_out_has_its_default() -> None:
    found = read(GOOD, "e.toml")
    assert (found.minimum_runtime, found.unit, found.layer) == (timedelta(hours=24), "user", "")
    assert (found.test.alpha, found.test.power) == (0.05, 0.8)


def changed(path: str, value: Any) -> dict[str, Any]:
    body: Any = deepcopy(GOOD)
    place = body
    *parts, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parts:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    found: dict[str, Any] = body
    return found


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("metrics.1.window", "x", "metrics[1].window: expected a duration such as '48h', got 'x'"),
        ("metrics.0.window", -1, "metrics[0].window: expected a duration such as '48h', got -1"),
        ("name", "a b", "name: expected a name of letters, digits, '.', '_' and '-', got 'a b'"),
        ("model", None, "model is missing"),
        ("modle", "m", "modle: no such key; there are name, hypothesis,"),
        ("variants.1.share", 0.6, "variants: shares add up to 110.00%, more than 100%"),
        ("variants.0.share", 1.5, "variants[0].share: expected a share such as 0.5 or '50%', got 1.5"),
        ("variants.0.share", True, "variants[0].share: expected a share such as 0.5 or '50%', got True"),
        ("variants.1.name", "a", "variants[1]: 'a' is there twice"),
        ("variants", "x", "variants: expected a list of tables, [[variants]], got 'x'"),
        ("variants.0", 3, "variants[0]: expected a table, got 3"),
        ("variants", GOOD["variants"][:1], "variants: expected two or more, got '1'"),
        ("metrics", [], "metrics: expected one or more, got 'none'"),
        ("control", "c", "control: expected one of the variants a, b, got 'c'"),
        ("metrics.1.prediction", "scroe", "metrics[1].prediction: expected a column of predictions, one of score,"),
        (
            "metrics.0.kind",
            "median",
            "metrics[0].kind: expected one of proportion, mean, ratio, quantile, got 'median'",
        ),
        ("metrics.0.kind", ["mean"], "metrics[0].kind: expected one of"),
        ("metrics.0.kind", "ratio", "metrics[0].denominator: is missing; a ratio needs one"),
        ("metrics.0.denominator", {"prediction": "rows"}, "metrics[0].denominator: a proportion has none"),
        ("metrics.0.prediction", "score", "metrics[0]: expected one of outcome, prediction, source or"),
        ("metrics.0.outcome", None, "metrics[0]: expected one of outcome, prediction, source or"),
        ("metrics.0.outcome", "", "metrics[0]: expected either outcome or prediction"),
        ("metrics.0.mde", "2", "metrics[0].mde: expected a relative size such as '10%', or an absolute one above 0"),
        ("metrics.0.cap_value", 3, "metrics[0]: a proportion is not winsorised"),
        (
            "metrics.0.percentile",
            9,
            "metrics[0].percentile: expected a number above 0 and below 100 for a quantile, and only there, got 9.0",
        ),
        ("metrics.1.percentile", 100, "metrics[1].percentile: expected a number above 0 and below 100, got 100"),
        ("metrics.1.percentile", None, "metrics[1].percentile: expected a number above 0 and below 100 for a quantile"),
        ("guardrails.0.metric", "spee", "guardrails[0].metric: expected one of the metrics bought, speed, got 'spee'"),
        ("guardrails.0.margin", 0, "guardrails[0].margin: expected a relative size"),
        ("test.alpha", 5, "test.alpha: expected a number above 0 and below 1, got 5"),
        ("test", {"spending": "power"}, "test.spending_parameter: expected a number for the families power and"),
        ("test.looks", 0, "test.looks: expected a whole number above 0, got 0"),
        ("layer_ranges", [[0, 5000]], "layer_ranges: mean nothing without a layer"),
        ("layer_ranges", [[0, 10], [5, 3]], "layer_ranges[1]: expected [lo, hi) within 0 to 10000, got [5, 3]"),
        ("slot", 0.5, "slot: expected a duration of whole seconds such as '1h', got 0.5"),
        ("unit", "session", "unit: expected one of user, got 'session'"),
    ],
)
def test_a_mistake_is_told_with_its_file_and_key(path: str, value: Any, said: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        read(changed(path, value), "e.toml")
    assert str(caught.value).startswith(f"e.toml: {said}")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_none_or_no_toml_is_told(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"none\.toml cannot be read: No such file"):
        from_toml(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ", "utf-8")
    with pytest.raises(DefinitionError, match=r"bad\.toml: no TOML: "):
        from_toml(tmp_path / "bad.toml")
    with pytest.raises(DefinitionError, match=r"control: no JSON: "):
        from_json("{", "control")


def test_layers_that_overlap_are_refused_by_name() -> None:
    one = read({**GOOD, "name": "one", "layer": "home", "layer_ranges": [[0, 6000]]}, "one")
    two = read({**GOOD, "name": "two", "layer": "home", "layer_ranges": [[5000, 9000]]}, "two")
    with pytest.raises(DefinitionError, match=r"'two': layer_ranges overlap .* 'one' in layer 'home' at bucket 5000"):
        check_layers([one, two])
    check_layers([one, read({**GOOD, "name": "two", "layer": "away", "layer_ranges": [[0, 9000]]}, "two")])
    with pytest.raises(DefinitionError, match="layer_ranges: bucket 4 is there twice"):
        read({**GOOD, "layer": "home", "layer_ranges": [[0, 5], [4, 9]]}, "own")


def test_a_definition_becomes_the_assignment_that_workers_obey() -> None:
    found = read({**GOOD, "layer": "home", "layer_ranges": [[0, 5000]]}, "e")
    experiment = Experiment.create(
        found.name, found.model, found.shares(), found.versions(), layer=found.layer, layer_ranges=found.layer_ranges
    )
    met = Router([experiment]).assign_many("e", [f"u{number}" for number in range(2000)])
    assert {one.name for one in met if one} == {"a", "b"}
    assert 800 < sum(one is not None for one in met) < 1200


NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_a_plan_survives_its_control_record_to_the_microsecond() -> None:
    at = NOON + timedelta(microseconds=123_457)
    for plan in (Plan(read(GOOD, "e")), Plan(read(GOOD, "e")).start(at), Plan(read(GOOD, "e")).start(at).stop(at)):
        assert plan_from_json(plan.to_json()) == plan
    body = json.loads(Plan(read(GOOD, "e")).start(at).to_json())
    assert body["started_at"] == int(at.timestamp()) * 1_000_000 + 123_457
    body["stopped_at"] = body["started_at"] - 1
    with pytest.raises(DefinitionError, match="experiment-plan: stopped_at: expected a time at or after started_at"):
        plan_from_json(json.dumps(body))


def test_a_run_starts_once_ramps_and_stops_and_then_may_start_anew() -> None:
    created = Plan(read(GOOD, "e"))
    with pytest.raises(DefinitionError, match="'e' is not running"):
        created.stop(NOON)
    running = created.start(NOON)
    with pytest.raises(DefinitionError, match=r"'e' has been running since 2026-11-23T12:00:00\+00:00: stop it first"):
        running.start(NOON)
    ramped = running.ramp({"a": 0.3, "b": 0.7})
    assert ramped.started_at == NOON, "a ramp is no restart"
    assert ramped.definition.shares() == {"a": 0.3, "b": 0.7}
    with pytest.raises(DefinitionError, match="has no arm 'c'; it has a, b"):
        running.ramp({"c": 0.1})
    with pytest.raises(DefinitionError, match=r"shares add up to 120\.00%"):
        running.ramp({"b": 0.7})
    with pytest.raises(DefinitionError, match="cannot stop before that"):
        running.stop(NOON - timedelta(seconds=1))
    stopped = ramped.stop(NOON + timedelta(days=1))
    again = stopped.start(NOON + timedelta(days=2))
    assert (again.started_at, again.stopped_at) == (NOON + timedelta(days=2), None)
    with pytest.raises(DefinitionError, match="cannot start again before that"):
        stopped.start(NOON)


def test_a_metric_is_named_by_what_its_statistics_depend_on() -> None:
    one = read(GOOD, "e")
    key = one.metric_key(one.metric("bought"))
    judged = read(changed("metrics.0.mde", "5%"), "e")
    assert judged.metric_key(judged.metric("bought")) == key
    for path, value in (("metrics.0.window", "47h"), ("metrics.0.outcome", "other"), ("slot", "2h")):
        other = read(changed(path, value), "e")
        assert other.metric_key(other.metric("bought")) != key
    with pytest.raises(DefinitionError, match="has no metric 'none'; it has bought, speed"):
        one.metric("none")
