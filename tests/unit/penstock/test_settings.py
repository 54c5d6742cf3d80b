"""Settings come from file and environment, and a wrong one is named in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from penstock.running import RunningStack, started_at, write_stack
from penstock.settings import Settings, SettingsError, load
from penstock.settings_errors import HIDDEN


def toml(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "penstock.toml"
    file.write_text(text)
    return file


def line_of(path: Path | None = None, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load(path, environ=environ or {}, stack=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_environment_wins_over_the_file_and_leaves_its_other_keys(tmp_path: Path) -> None:
    file = toml(tmp_path, '[kafka]\npartitions = 3\ntopic_prefix = "a."\n')
    settings = load(file, environ={"PENSTOCK_KAFKA__PARTITIONS": "5"}, stack=False)
    assert (settings.kafka.partitions, settings.kafka.topic_prefix) == (5, "a.")


def test_the_file_is_found_by_variable_and_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(environ={}).kafka.partitions == 8
    toml(tmp_path, "kafka.partitions = 2")
    (tmp_path / "other.toml").write_text("kafka.partitions = 4")
    assert load(environ={}).kafka.partitions == 2
    assert load(environ={"PENSTOCK_CONFIG": "other.toml"}).kafka.partitions == 4


def test_an_object_made_in_code_ignores_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_KAFKA__PARTITIONS", "77")
    assert Settings().kafka.partitions == 8
    assert load(stack=False).kafka.partitions == 77


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kafka.partitions = 'many'", "kafka.partitions = 'many': expected a valid integer"),
        ("kafka.partitions = 0", "kafka.partitions = 0: expected greater than or equal to 1"),
        ("kafka.partition = 3", "kafka.partition: no such key; did you mean partitions?"),
        ("kafak.partitions = 3", "kafak: no such key; did you mean kafka?"),
        ("models.device = 'tpu'", "models.device = 'tpu': expected 'auto', 'cpu', 'cuda' or 'tensorrt'"),
        ("kafka.properties.'enable.auto.commit' = true", "enable.auto.commit cannot be set: Penstock commits"),
        ("kafka.topic_prefix = 'a b'", "kafka.topic_prefix = 'a b'"),
        ("kafka = 3\n", "kafka = 3: expected a valid dictionary"),
        ("kafka.partitions = ", "is not TOML"),
        ("kafka.properties.'lingerms' = 1", 'kafka.properties.lingerms: No such configuration property: "lingerms"'),
        ("kafka.producer_properties.'linger.ms' = 'soon'", "kafka.producer_properties.linger.ms: Invalid value for"),
        ("clickhouse.url = 'http://x:99999'", "clickhouse.url: expected http(s)://"),
    ],
)
def test_a_wrong_line_in_the_file_is_named(tmp_path: Path, text: str, expected: str) -> None:
    file = toml(tmp_path, text)
    line = line_of(file)
    assert line.startswith(f"{file}: ")
    assert expected in line


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PENSTOCK_KAFKA__PARTITIONS", "many", "PENSTOCK_KAFKA__PARTITIONS = 'many': expected a valid integer"),
        ("PENSTOCK_KAFKA__PARTITION", "3", "PENSTOCK_KAFKA__PARTITION: no such key; did you mean partitions?"),
        ("PENSTOCK_KAFAK__PARTITIONS", "3", "PENSTOCK_KAFAK__PARTITIONS: no section 'kafak'"),
        ("PENSTOCK_KAFKA", "x", "PENSTOCK_KAFKA: expected JSON"),
        ("PENSTOCK_HTTP", '{"host": 3}', "PENSTOCK_HTTP (host) = 3: expected a valid string"),
        ("PENSTOCK_KAFKA__PROPERTIES__GROUP_ID", "x", "PENSTOCK_KAFKA__PROPERTIES__GROUP_ID: group.id cannot be set"),
        ("PENSTOCK_KAFKA__PROPERTIES__FOO_BAR", "1", "PENSTOCK_KAFKA__PROPERTIES__FOO_BAR: No such configuration prop"),
        ("PENSTOCK_KAFKA__CONSUMER_PROPERTIES", '{"logger": 1}', "PENSTOCK_KAFKA__CONSUMER_PROPERTIES: logger cannot"),
        ("PENSTOCK_CLICKHOUSE__URL", "ftp://x", "PENSTOCK_CLICKHOUSE__URL: expected http(s)://user:password@host:port"),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str, expected: str) -> None:
    assert line_of(environ={name: value}).startswith(expected)


def test_a_file_that_is_not_there_is_named_where_it_was_asked_for(tmp_path: Path) -> None:
    assert line_of(tmp_path / "none.toml") == f"{tmp_path / 'none.toml'}: there is no such file of settings"


def test_names_that_are_not_ours_are_left_alone() -> None:
    settings = load(environ={"PENSTOCK_SERVICE_HOST": "x", "PENSTOCK_REQUIRE_KAFKA": "1"}, stack=False)
    assert settings == Settings()


def test_secrets_are_shown_neither_in_text_nor_in_errors(tmp_path: Path) -> None:
    file = toml(
        tmp_path,
        'kafka.properties."sasl.password" = "geheim"\nclickhouse.url = "https://u:geheim@h:8443"\n'
        'kafka.schema_registry_url = "http://u:geheim@r"',
    )
    settings = load(file, environ={}, stack=False)
    assert "geheim" not in f"{settings} {settings!r} {settings.shown()}"
    assert settings.shown()["clickhouse"]["url"] == f"https://u:{HIDDEN}@h:8443"
    assert settings.kafka.client()["sasl.password"] == "geheim"
    bad = toml(tmp_path, 'kafka.properties."sasl.password" = [1, "geheim"]\nkafka.partitions = "x"')
    assert "geheim" not in line_of(bad)
    assert "geheim" not in line_of(environ={"PENSTOCK_CLICKHOUSE__URL": "ftp://u:geheim@h"})


def test_a_property_that_needs_others_is_not_taken_for_a_wrong_one() -> None:
    names = {"SECURITY_PROTOCOL": "SASL_SSL", "SSL_CA_LOCATION": "/nowhere", "DEBUG": "all", "LOG_LEVEL": "3"}
    environ = {f"PENSTOCK_KAFKA__PROPERTIES__{name}": value for name, value in names.items()}
    assert load(environ=environ, stack=False).kafka.properties["security.protocol"] == "SASL_SSL"


def test_librdkafka_properties_pass_through_however_they_are_written(tmp_path: Path) -> None:
    file = toml(tmp_path, "[kafka.properties]\nsecurity.protocol = 'SASL_SSL'\n'socket.keepalive.enable' = false\n")
    environ = {
        "PENSTOCK_KAFKA__PROPERTIES__SASL_USERNAME": "me",
        "PENSTOCK_KAFKA__PROPERTIES__SECURITY_PROTOCOL": "SSL",
        "PENSTOCK_KAFKA__CONSUMER_PROPERTIES": '{"fetch.min.bytes": 7}',
    }
    kafka = load(file, environ=environ, stack=False).kafka
    assert kafka.properties == {"security.protocol": "SSL", "socket.keepalive.enable": "false", "sasl.username": "me"}
    assert kafka.consumer("g", **{"fetch.min.bytes": 1})["fetch.min.bytes"] == "7"
    assert "fetch.min.bytes" not in kafka.producer()
    assert kafka.producer(**{"linger.ms": 50})["linger.ms"] == 50


def test_a_consumer_never_commits_by_itself_and_reads_committed_records_only() -> None:
    config = load(environ={}, stack=False).kafka.consumer("group")
    assert config["enable.auto.commit"] is False
    assert config["isolation.level"] == "read_committed"
    assert config["group.id"] == "group"


def test_both_group_protocols_are_accepted_by_librdkafka() -> None:
    from confluent_kafka import Consumer

    for protocol in ("classic", "consumer"):
        environ = {"PENSTOCK_KAFKA__GROUP_PROTOCOL": protocol, "PENSTOCK_KAFKA__SESSION_TIMEOUT_MS": "6000"}
        config = load(environ=environ, stack=False).kafka.consumer("group")
        Consumer({**config, "log_level": 0}).close()
        assert config.get("session.timeout.ms") == (6000 if protocol == "classic" else None)


def test_a_child_process_reads_the_same_settings_from_the_environment_it_is_given(tmp_path: Path) -> None:
    file = toml(tmp_path, 'kafka.properties."sasl.password" = "x"\nworker.p99_target_ms = 20.5\nstack.workers = 3')
    settings = load(file, environ={}, stack=False)
    assert load(environ=settings.environment(), stack=False) == settings


def running(**kafka: object) -> RunningStack:
    return RunningStack(os.getpid(), started_at(os.getpid()) or 0, "embedded", kafka, warehouse_port=8999)


def test_addresses_nobody_set_are_those_of_the_running_stack(tmp_path: Path) -> None:
    write_stack(tmp_path, running(bootstrap_servers="127.0.0.1:1234", session_timeout_ms=6000))
    environ = {"PENSTOCK_STACK__STATE": str(tmp_path), "PENSTOCK_KAFKA__PARTITIONS": "3"}
    settings = load(environ=environ)
    assert settings.kafka.bootstrap_servers == "127.0.0.1:1234"
    assert settings.kafka.session_timeout_ms == 6000
    assert settings.kafka.partitions == 3
    assert settings.http.warehouse_port == 8999
    assert load(environ=environ, stack=False).kafka.bootstrap_servers == "127.0.0.1:9092"


def test_a_broker_somebody_named_is_not_exchanged_for_the_stacks(tmp_path: Path) -> None:
    write_stack(tmp_path, running(bootstrap_servers="127.0.0.1:1234", session_timeout_ms=6000))
    environ = {"PENSTOCK_STACK__STATE": str(tmp_path), "PENSTOCK_KAFKA__BOOTSTRAP_SERVERS": "far:9092"}
    settings = load(environ=environ)
    assert settings.kafka.bootstrap_servers == "far:9092"
    assert settings.kafka.session_timeout_ms == 10_000


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", json.dumps({"pid": 1}), json.dumps({"pid": 2**22 + 1, "started": 1, "broker": "x", "kafka": {}})],
)
def test_a_file_that_a_dead_stack_left_behind_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "stack.json").write_text(text)
    assert load(environ={"PENSTOCK_STACK__STATE": str(tmp_path)}).kafka == Settings().kafka


def test_a_later_process_of_the_same_pid_is_not_the_stack(tmp_path: Path) -> None:
    stack = RunningStack(os.getpid(), (started_at(os.getpid()) or 0) + 1, "embedded", {"bootstrap_servers": "x:1"})
    write_stack(tmp_path, stack)
    assert load(environ={"PENSTOCK_STACK__STATE": str(tmp_path)}).kafka == Settings().kafka


def test_the_models_that_come_with_penstock_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Path(load(environ={}).models.store).is_dir()
    (tmp_path / "models" / "zoo").mkdir(parents=True)
    assert load(environ={}).models.store == "models/zoo"
