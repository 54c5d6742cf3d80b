"""What tests run against: the embedded broker always, Apache Kafka and Chromium where this machine can run them."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_programs import missing as missing_for_prometheus

from penstock.brokers import ApacheKafka, EmbeddedBroker, LocalBroker, kafka_jars, missing_for_kafka
from producers.publisher import create_topics
from schemas.topics import Topics

_REQUIRED = os.environ.get("PENSTOCK_REQUIRE_KAFKA") == "1"
_PROMETHEUS_REQUIRED = os.environ.get("PENSTOCK_REQUIRE_PROMETHEUS") == "1"
_NO_CHROMIUM = "no chromium is on PATH (Debian: apt-get install --no-install-recommends chromium)"


@pytest.fixture(scope="session")
def embedded_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """The embedded broker, one for the run."""
    with EmbeddedBroker(log=tmp_path_factory.mktemp("embedded") / "tansu.log") as broker:
        yield broker


@pytest.fixture(scope="session")
def apache_kafka(kafka_runs_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    """A real Apache Kafka, one for the run. Skips its tests where Java or Maven is missing."""
    with ApacheKafka(tmp_path_factory.mktemp("apache"), jars=kafka_jars()) as broker:
        yield broker


@pytest.fixture
def own_kafka(kafka_runs_here: None, tmp_path: Path) -> Iterator[ApacheKafka]:
    """An Apache Kafka of this test alone, to be killed and restarted at will."""
    with ApacheKafka(tmp_path / "kafka", jars=kafka_jars()) as broker:
        yield broker


@pytest.fixture(params=["embedded", pytest.param("apache", marks=pytest.mark.apache)])
def broker(request: pytest.FixtureRequest) -> LocalBroker:
    """Either broker in turn. What a test does to it, it does to all tests: kill brokers of your own."""
    name = "embedded_broker" if request.param == "embedded" else "apache_kafka"
    running: LocalBroker = request.getfixturevalue(name)
    return running


@pytest.fixture
def topics(broker: LocalBroker) -> Topics:
    """Fresh topics of this test alone on `broker`, 4 partitions each."""
    fresh = Topics(prefix=f"t{uuid.uuid4().hex[:10]}.")
    create_topics(broker.address, fresh, 4)
    return fresh


@pytest.fixture(scope="session")
def kafka_runs_here() -> None:
    """Skip the test where Apache Kafka cannot run; fail it where PENSTOCK_REQUIRE_KAFKA=1 says that it must."""
    problem = missing_for_kafka()
    if problem is None:
        return
    if _REQUIRED:
        pytest.fail(f"PENSTOCK_REQUIRE_KAFKA=1, but {problem}", pytrace=False)
    pytest.skip(problem)


@pytest.fixture(scope="session")
def prometheus_runs_here() -> None:
    """Skip the test where Prometheus or Alertmanager is missing; fail it where PENSTOCK_REQUIRE_PROMETHEUS=1."""
    problem = missing_for_prometheus()
    if not problem:
        return
    if _PROMETHEUS_REQUIRED:
        pytest.fail(f"PENSTOCK_REQUIRE_PROMETHEUS=1, but {problem}", pytrace=False)
    pytest.skip(problem)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium. Skips the test without one; fails it where PENSTOCK_REQUIRE_CHROMIUM=1 says so."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        if os.environ.get("PENSTOCK_REQUIRE_CHROMIUM") == "1":
            pytest.fail(f"PENSTOCK_REQUIRE_CHROMIUM=1, but {_NO_CHROMIUM}", pytrace=False)
        pytest.skip(_NO_CHROMIUM)
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What fault tests saw, and in a line each what did not run for want of Apache Kafka, Prometheus or a browser."""
    stats = terminalreporter.stats
    for one in sorted([*stats.get("passed", []), *stats.get("failed", [])], key=lambda one: str(one.nodeid)):
        for name, value in one.user_properties if one.when == "call" else ():
            if name == "saw":
                terminalreporter.write_line(f"{one.nodeid.rpartition('::')[2]}: {value}")
    reports = stats.get("skipped", [])
    for what, problem in (
        ("against Apache Kafka", missing_for_kafka()),
        ("against Prometheus and Alertmanager", missing_for_prometheus()),
        ("in a browser", _NO_CHROMIUM),
    ):
        count = sum(1 for one in reports if problem and problem in str(one.longrepr))
        if count:
            terminalreporter.write_line(f"{count} tests {what} did not run: {problem}.")
