"""`penstock experiments plan`: the figures, what it says beside them, and one line for what cannot be planned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from penstock.cli import build

TENTH = ("--baseline", "0.05", "--mde", "10%", "--relative", "--alpha", "0.05", "--power", "0.8")
FILE = """
name = "e"
hypothesis = "b is better"
model = "m"
control = "b"
layer = "home"
layer_ranges = [[0, 5000]]
minimum_runtime = "48h"
maturity_delay = "2h"
variants = [{ name = "a", version = "1", share = "20%" }, { name = "b", version = "2", share = "60%" }]
guardrails = [{ metric = "speed", margin = "5%" }]

[[metrics]]
name = "churned"
kind = "proportion"
outcome = "churn"
direction = "decrease"
mde = "10%"
window = "22h"

[[metrics]]
name = "spent"
kind = "mean"
outcome = "purchase"

[[metrics]]
name = "speed"
kind = "quantile"
prediction = "latency_ms"
percentile = 99

[test]
spending = "pocock"
looks = 7
alpha = 0.01
"""


def penstock(*arguments: str) -> Result:
    return CliRunner().invoke(build(), ["experiments", "plan", *arguments])


def answer(*arguments: str) -> Any:
    result = penstock(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_the_plan_of_a_tenth_of_five_percent() -> None:
    found = answer(*TENTH, "--rate", "1000", "--share", "10%")
    assert [one["arms"] for one in found["one_look"]] == [[31_231, 31_231], [31_234, 31_234]]
    assert (found["formula"], found["arms"]) == ("two proportions, unpooled", [31_231, 31_231])
    assert (found["needed_seconds"], found["planned_seconds"]) == (625, 86_400)
    text = penstock(*TENTH, "--rate", "1000", "--share", "10%").stdout
    assert "one look, two proportions, unpooled  31,231 users a variant, 62,462 in all, chosen\n" in text
    assert "one look, two proportions, pooled    31,234 users a variant, 62,468 in all\n" in text
    assert "24 hours: the minimum runtime of 24 hours, although 0:10:25 would be enough\n" in text
    assert answer(*TENTH, "--formula", "pooled")["arms"] == [31_234, 31_234]


def test_a_size_of_effect_is_relative_or_absolute_as_it_says() -> None:
    for mde in (("0.005",), ("0.1", "--relative"), ("10%",), ("0.5%", "--absolute")):
        assert answer("--baseline", "0.05", "--mde", *mde)["arms"] == [31_231, 31_231]
    assert answer("--baseline", "0.05", "--mde=-10%")["effect"] == pytest.approx(-0.005)


def test_designs_arms_and_metrics_are_chosen_by_options() -> None:
    often = answer(*TENTH, "--test", "group-sequential", "--spending", "obrien-fleming", "--looks", "14")
    assert (often["arms"], often["inflation"]) == ([32_556, 32_556], pytest.approx(1.0424, abs=1e-4))
    assert answer(*TENTH, "--test", "always-valid")["inflation"] == pytest.approx(1.7602, abs=1e-4)
    assert answer(*TENTH, "--shares", "0.8,0.2")["arms"] == [80_185, 20_047]
    mean = answer("--metric", "mean", "--sd", "1", "--mde", "0.1")
    assert (mean["arms"], mean["formula"]) == ([1570, 1570], "two means, normal")
    ratio = answer("--metric", "ratio", "--sd", "5", "--mean-denominator", "5", "--mde", "0.1")
    assert (ratio["arms"], ratio["formula"]) == ([1570, 1570], "ratio of sums, delta method")
    family = answer(*TENTH, "--test", "group-sequential", "--spending", "power", "--spending-parameter", "2")
    assert family["design"] == "group sequential, power 2, 14 looks"


def test_given_the_users_the_answer_is_the_effect() -> None:
    found = answer("--baseline", "0.05", "--n", "31231")
    assert (found["effect"], found["one_look"]) == (pytest.approx(0.005, rel=1e-4), [])
    text = penstock("--baseline", "0.05", "--n", "31231").stdout
    assert "proportion found                     from 0.05 to 0.055 (+10%)\n" in text
    assert answer("--baseline", "0.05", "--n", "31231", "--mde=-1%")["effect"] < 0


def test_a_test_that_looks_once_says_so() -> None:
    warning = "A fixed test is looked at once, at its end"
    assert warning in penstock(*TENTH).stdout
    assert warning not in penstock(*TENTH, "--test", "always-valid").stdout


def test_the_curve_is_drawn_with_the_planned_power_marked() -> None:
    lines = penstock(*TENTH, "--curve").stdout.splitlines()
    start = next(at for at, line in enumerate(lines) if line.endswith("power") and "effect" in line)
    curve = lines[start + 1 :]
    assert len(curve) == 13
    assert curve[6] == f"    +0.005   80.0% {'█' * 40}│"
    assert len({line.index("│") for line in curve}) == 1
    assert penstock(*TENTH).stdout.count("│") == 0


def test_a_file_gives_metric_arms_test_and_times(tmp_path: Path) -> None:
    path = tmp_path / "e.toml"
    path.write_text(FILE, "utf-8")
    found = answer("--file", str(path), "--baseline", "0.05", "--rate", "100")
    assert (found["metric"], found["alpha"], found["design"]) == (
        "proportion", 0.01, "group sequential, pocock, 7 looks"
    )  # fmt: skip
    assert found["effect"] == pytest.approx(-0.005)
    assert found["arms"][0] == pytest.approx(3 * found["arms"][1], abs=3), "the control comes first"
    assert found["planned_seconds"] == 48 * 3600
    assert found["complete_seconds"] == (48 + 24) * 3600
    # 80% of half of the users.
    assert found["needed_seconds"] == pytest.approx(found["total"] / 40, abs=1)
    text = penstock("--file", str(path), "--baseline", "0.05", "--rate", "100").stdout
    assert "3 days: outcomes have 24 hours to come in" in text
    mean = answer("--file", str(path), "--metric", "spent", "--sd", "1", "--mde", "0.1", "--test", "fixed")
    assert (mean["metric"], mean["design"]) == ("mean", "one look")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "a plan needs the smallest effect worth finding, or the units there will be"),
        (("--mde", "much"), "--mde: expected a relative size such as '10%', or an absolute one such as 0.005, got"),
        (("--mde", "10%"), "a relative effect needs the baseline"),
        (("--metric", "median"), "--metric: expected one of proportion, mean, ratio, got 'median'"),
        (("--test", "often"), "--test: expected one of fixed, group-sequential, always-valid, got 'often'"),
        (("--spending", "all"), "--spending: expected one of obrien-fleming,"),
        (("--formula", "exact"), "--formula: expected one of unpooled, pooled, got 'exact'"),
        (("--shares", "0.8,x"), "--shares: expected a number above 0, got '0.8,x'"),
        (("--share", "120%"), "--share: expected a share such as 0.5 or '50%', got '120%'"),
        ((*TENTH, "--rate", "0"), "the rate must be positive, not 0"),
        (("--metric", "mean", "--mde", "1"), "a mean needs the standard deviation of a unit's value"),
        (("--file", "none.toml"), "none.toml cannot be read: No such file or directory"),
        (("--file", "e.toml", "--metric", "speed"), "e.toml: metrics[2].kind: a quantile has no formula for its size"),
        (("--file", "e.toml", "--metric", "sped"), "experiment 'e' has no metric 'sped'; it has churned, spent, speed"),
        (("--file", "e.toml", "--metric", "spent", "--sd", "1"), "a plan needs the smallest effect worth finding"),
    ],
)
def test_what_cannot_be_planned_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "e.toml").write_text(FILE, "utf-8")
    monkeypatch.chdir(tmp_path)
    result = penstock(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"penstock: {said}")
    assert len(result.stderr.splitlines()) == 1
