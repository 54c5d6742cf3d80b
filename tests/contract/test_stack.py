"""The local stack comes up on either broker, is found by other commands, mends itself, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from waiting import until

from penstock.brokers import free_port
from penstock.running import read_stack, started_at
from penstock.settings import KafkaSettings, ModelSettings, Settings, StackSettings, load
from penstock.stack import LocalStack, StackError
from producers.publisher import create_topics
from schemas.topics import Topics, TopicSpec, topic_specs

pytestmark = pytest.mark.kafka
UP = [sys.executable, "-m", "penstock", "up", "--workers", "0", "--no-ingest", "--json"]
# Other tests, and other people on this machine, have brokers as well.
ANY_PORT = {**os.environ, "PENSTOCK_STACK__BROKER_PORT": "0"}


def settings_in(state: Path) -> Settings:
    return Settings(stack=StackSettings(state=str(state), broker_port=0))


def topics_at(address: str) -> set[str]:
    return set(AdminClient({"bootstrap.servers": address, "log_level": 0}).list_topics(timeout=30).topics)


@pytest.fixture
def bare_stack(tmp_path: Path) -> Iterator[LocalStack]:
    with LocalStack(settings_in(tmp_path / "state"), workers=0, ingest=False) as stack:
        yield stack


@pytest.fixture
def up(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`penstock up` with the broker alone, in a folder of its own."""
    with subprocess.Popen(
        UP, cwd=tmp_path, env=ANY_PORT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        if process.poll() is None:
            process.kill()


def addresses(up: subprocess.Popen[str]) -> dict[str, dict[str, str]]:
    """What `up --json` printed, once it is complete."""
    assert up.stdout is not None
    text = ""
    for line in up.stdout:
        text += line
        if line == "}\n":
            break
    found: dict[str, dict[str, str]] = json.loads(text)
    return found


def test_a_stack_has_every_topic_and_is_found_by_settings_that_name_no_broker(bare_stack: LocalStack) -> None:
    found = load(environ={"PENSTOCK_STACK__STATE": str(bare_stack.state)})
    assert found.kafka == bare_stack.settings.kafka
    assert found.kafka.session_timeout_ms == 6000
    assert {one.name for one in topic_specs(Topics())} <= topics_at(found.kafka.bootstrap_servers)


def test_a_stopped_stack_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    stack = LocalStack(settings_in(tmp_path), workers=0, ingest=False).start()
    pids = stack.processes
    assert list(pids) == ["broker"]
    stack.stop()
    stack.stop()
    assert started_at(pids["broker"]) is None
    assert not (tmp_path / "stack.json").exists()


def test_a_second_stack_in_the_same_state_folder_is_refused(bare_stack: LocalStack) -> None:
    with pytest.raises(StackError) as caught:
        LocalStack(settings_in(bare_stack.state), workers=0, ingest=False).start()
    assert str(caught.value).startswith(f"a stack already runs in {bare_stack.state}, by process {os.getpid()}")
    assert read_stack(bare_stack.state) is not None, "the refused one must not remove the other's file"


def test_a_killed_broker_comes_back_with_its_topics_at_the_same_address(bare_stack: LocalStack) -> None:
    address = bare_stack.settings.kafka.bootstrap_servers
    before = bare_stack.processes["broker"]
    os.kill(before, signal.SIGKILL)

    def told() -> bool:
        running = read_stack(bare_stack.state)
        return running is not None and running.processes.get("broker", before) != before

    until(told, 60, "no other broker is told of")
    assert {one.name for one in topic_specs(Topics())} <= topics_at(address)


def test_a_stack_on_a_broker_that_does_not_answer_says_so_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.stack.create_topics", partial(create_topics, timeout=1.0))
    with pytest.raises(StackError, match=r"127\.0\.0\.1:1"):
        LocalStack(settings_in(tmp_path), broker="127.0.0.1:1", workers=0, ingest=False).start()
    LocalStack(settings_in(tmp_path), workers=0, ingest=False).start().stop()


def test_a_stack_on_a_broker_that_runs_already_leaves_it_running(bare_stack: LocalStack, tmp_path: Path) -> None:
    address = bare_stack.settings.kafka.bootstrap_servers
    settings = settings_in(tmp_path / "other")
    settings = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"topic_prefix": "other."})})
    with LocalStack(settings, broker=address, workers=0, ingest=False) as stack:
        assert stack.processes == {}
        assert "other.control" in topics_at(address)
    assert "other.control" in topics_at(address)


@pytest.mark.apache
@pytest.mark.usefixtures("kafka_runs_here")
def test_a_stack_on_apache_kafka_keeps_its_records_for_the_next_one(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with LocalStack(settings, broker="kafka", workers=0, ingest=False) as stack:
        assert stack.settings.kafka.group_protocol == "consumer"
        create_topics(stack.settings.kafka.client(), [TopicSpec("kept", 1, {})])
    with LocalStack(settings, broker="kafka", workers=0, ingest=False) as stack:
        assert "kept" in topics_at(stack.settings.kafka.bootstrap_servers)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_up_stops_its_children_and_ends_well_when_it_is_told_to(
    up: subprocess.Popen[str], tmp_path: Path, signum: signal.Signals
) -> None:
    broker = addresses(up)["processes"]["broker"]
    up.send_signal(signum)
    assert up.wait(60) == 0
    assert started_at(int(broker)) is None
    assert not (tmp_path / ".penstock" / "stack.json").exists()


def test_up_that_is_stopped_before_it_is_ready_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(UP, cwd=tmp_path, env=ANY_PORT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "starting the embedded broker\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == "penstock: stopped before everything was ready\n"
    assert not (tmp_path / ".penstock" / "stack.json").exists()


def test_the_port_that_clients_look_at_first_is_taken_where_it_is_free(tmp_path: Path) -> None:
    assert StackSettings().broker_port == int(KafkaSettings().bootstrap_servers.rpartition(":")[2])
    port, said = free_port(), list[str]()

    def stack(name: str) -> LocalStack:
        # As if `port` were the default, which others on this machine may have.
        values = {**StackSettings(state=str(tmp_path / name)).model_dump(), "broker_port": port}
        settings = Settings(stack=StackSettings.model_construct({"state"}, **values))
        return LocalStack(settings, workers=0, ingest=False, say=said.append)

    with stack("one") as first, stack("other") as second:
        assert first.addresses["broker"] == f"127.0.0.1:{port}"
        other = second.addresses["broker"]
        assert other != f"127.0.0.1:{port}"
        assert f"port {port} is taken, so the broker listens on {other}" in said


def test_a_port_somebody_named_is_not_exchanged_for_another(bare_stack: LocalStack, tmp_path: Path) -> None:
    taken = int(bare_stack.addresses["broker"].rpartition(":")[2])
    settings = Settings(stack=StackSettings(state=str(tmp_path / "other"), broker_port=taken))
    with pytest.raises(StackError, match=f"port {taken} of 127.0.0.1 is taken"):
        LocalStack(settings, workers=0, ingest=False).start()


def test_a_stack_without_a_model_for_its_workers_is_refused_before_anything_starts(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "state").model_copy(update={"models": ModelSettings(store=str(tmp_path))})
    with pytest.raises(StackError, match=r"there is no model in models\.store = "):
        LocalStack(settings, ingest=False).start()
    assert not (tmp_path / "state").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_the_children_of_a_killed_up_die_with_it_and_the_next_up_starts(
    up: subprocess.Popen[str], tmp_path: Path
) -> None:
    broker = int(addresses(up)["processes"]["broker"])
    up.kill()
    up.wait()
    until(lambda: started_at(broker) is None, 60, "the broker is left behind")
    assert (tmp_path / ".penstock" / "stack.json").exists()
    assert read_stack(tmp_path / ".penstock") is None
    with LocalStack(settings_in(tmp_path / ".penstock"), workers=0, ingest=False) as stack:
        assert stack.processes
