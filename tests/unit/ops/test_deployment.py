"""docker-compose.yml, Dockerfile and Prometheus' configuration, read as their engines would read them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from penstock.cli import build
from penstock.page_access import access
from penstock.settings import Settings, SettingsError, load
from schemas.topics import topic_specs
from stream_workers.monitor_metrics import MonitorMetrics
from stream_workers.ops import Health, IngestMetrics, OpsServer, ReplicaMetrics, WorkerMetrics, new_registry
from stream_workers.ops_alerts import AlertMetrics

ROOT = Path(__file__).parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("penstock:")}
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
IMAGE_ENV = dict(re.findall(r"(PENSTOCK_\w+)=(\S+)", DOCKERFILE))


def settings_of(service: dict[str, Any]) -> Settings:
    """What a service's process would read, Compose's ${NAME:-default} filled in."""
    environment = {**IMAGE_ENV, **service.get("environment", {})}
    filled = {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value)) for name, value in environment.items()}
    return load(environ=filled, stack=False)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_that_stays_has_a_health_check_and_is_restarted(name: str) -> None:
    service = SERVICES[name]
    if service["restart"] == "no":
        waits = [other for other in SERVICES.values() if name in other.get("depends_on", {})]
        assert waits
        assert all(one["depends_on"][name]["condition"] == "service_completed_successfully" for one in waits)
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned_and_every_port_is_on_loopback(name: str) -> None:
    image, _, tag = SERVICES[name]["image"].partition(":")
    assert image
    assert tag
    assert tag != "latest"
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


def test_the_images_the_dockerfile_stands_on_are_pinned_and_take_an_extra_that_exists() -> None:
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"python:${PYTHON}-slim-bookworm"}
    assert re.search(r"^ARG PYTHON=3\.11$", DOCKERFILE, re.MULTILINE)
    extras = {service["build"]["args"]["EXTRA"] for service in OURS.values()}
    extras |= set(re.findall(r"^ARG EXTRA=(\w+)", DOCKERFILE, re.MULTILINE))
    assert extras == {"cpu", "gpu"}
    assert extras <= set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("name", OURS)
def test_every_service_runs_a_command_that_penstock_has(name: str) -> None:
    (entry,) = re.findall(r'^ENTRYPOINT \["(\w+)"\]', DOCKERFILE, re.MULTILINE)
    assert entry in PROJECT["scripts"]
    commands = typer.main.get_command(build()).commands  # type: ignore[attr-defined]
    assert OURS[name]["command"][0] in commands


@pytest.mark.parametrize("name", OURS)
def test_every_setting_in_a_services_environment_exists_and_is_valid(name: str) -> None:
    settings = settings_of(OURS[name])
    assert settings.kafka.bootstrap_servers == "kafka:19092"
    assert settings.http.host == "0.0.0.0"  # noqa: S104 - inside its container
    assert settings.http.worker_port == settings.http.warehouse_port == settings.http.monitor_port == 9400


def test_a_setting_that_does_not_exist_would_be_noticed() -> None:
    with pytest.raises(SettingsError, match="PENSTOCK_KAFKA__BOOTSTRAP"):
        settings_of({"environment": {"PENSTOCK_KAFKA__BOOTSTRAP": "kafka:19092"}})


def test_only_the_gpu_profile_asks_for_a_device_and_then_insists_on_it() -> None:
    cpu, gpu = SERVICES["worker"], SERVICES["worker-gpu"]
    assert "deploy" not in cpu
    assert gpu["profiles"] == ["gpu"]
    assert gpu["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert (settings_of(cpu).models.device, settings_of(gpu).models.device) == ("cpu", "cuda")


@pytest.mark.parametrize("where", ["compose", "image"])
def test_the_health_check_passes_for_a_living_process_and_fails_for_a_stuck_one(where: str) -> None:
    if where == "compose":
        test: list[str] = SERVICES["worker"]["healthcheck"]["test"][1:]
    else:
        (line,) = re.findall(r"HEALTHCHECK .*CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
        test = yaml.safe_load(line)
    assert test[0] == "python"
    clock = iter([0.0, 1.0, 100.0]).__next__
    health = Health(clock)
    health.watch("poll", 10)
    with OpsServer("127.0.0.1", 0, new_registry(), health) as server:
        command = [sys.executable, *(part.replace("9400", str(server.port)) for part in test[1:])]
        codes = [subprocess.run(command, capture_output=True, check=False).returncode for _ in range(2)]
    assert codes == [0, 1]


def test_everything_the_image_needs_gets_into_it_and_nothing_private_does() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    packages = {pattern.rstrip("*") for pattern in config["packages"]["find"]["include"]}
    assert "*" in lines
    assert packages | {"pyproject.toml", PROJECT["readme"]} <= allowed
    assert not allowed & {".git", ".venv", ".env", ".penstock", "tests"}


def test_prometheus_scrapes_the_services_there_are_on_the_port_they_have() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
    found = [one for job in config["scrape_configs"] for one in job.get("dns_sd_configs", [])]
    assert {name for one in found for name in one["names"]} == {"worker", "worker-gpu", "ingest", "monitor"} & set(
        SERVICES
    )
    assert {one["port"] for one in found} == {settings_of(SERVICES["worker"]).http.worker_port}
    assert {one["port"] for one in found} == {settings_of(SERVICES["monitor"]).http.monitor_port}
    assert [(ROOT / "deploy/prometheus" / name).is_file() for name in config["rule_files"]] == [True]


def test_alerts_ask_for_metrics_there_are() -> None:
    registry = new_registry()
    WorkerMetrics(registry, "w")
    IngestMetrics(registry)
    AlertMetrics(registry)
    MonitorMetrics(registry)
    ReplicaMetrics(registry)
    there = {family.name + ("_total" if family.type == "counter" else "") for family in registry.collect()}
    rules = (ROOT / "deploy/prometheus/rules.yml").read_text("utf-8")
    asked = {re.sub(r"_bucket$", "", name) for name in re.findall(r"\bpenstock_\w+", rules)}
    assert asked
    assert asked <= there


def test_the_settings_that_the_operations_page_shows_are_valid(tmp_path: Path) -> None:
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    (toml,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (shell,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    file = tmp_path / "penstock.toml"
    file.write_text(toml, "utf-8")
    exported = dict(line.removeprefix("export ").split("=", 1) for line in shell.splitlines() if "export" in line)
    settings = load(file, environ=exported, stack=False)
    assert settings.kafka.client()["sasl.password"] == "…"
    assert settings.kafka.client()["security.protocol"] == "SASL_SSL"
    assert {spec.partitions for spec in topic_specs(settings.kafka.topics, settings.kafka.partitions)} == {1, 8}
    commands = typer.main.get_command(build()).commands  # type: ignore[attr-defined]
    assert {shlex.split(line, comments=True)[1] for line in shell.splitlines() if line.startswith("penstock")} <= set(
        commands
    )


def test_the_page_in_the_composition_asks_for_a_token_and_prometheus_needs_none() -> None:
    rules = access(settings_of(SERVICES["ingest"]))
    for path, status in (("/", 401), ("/sql", 401), ("/metrics", 0), ("/healthz", 0)):
        refusal = rules.refusal("GET", path, {"host": "127.0.0.1:9400"}, {})
        assert (refusal.status if refusal else 0) == status, path
