"""One scoring worker on each broker for all contract tests that only ask it things."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx_models import fill_store
from worker_process import Scene

from penstock.brokers import ApacheKafka, EmbeddedBroker, LocalBroker
from producers.publisher import create_topics
from schemas.topics import Topics


@pytest.fixture(scope="session")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a model of each kind; see `fill_store`."""
    folder = tmp_path_factory.mktemp("models")
    return fill_store(folder / "store", folder).root


def _shared(broker: LocalBroker, store: Path, folder: Path) -> Iterator[Scene]:
    topics = Topics(prefix=f"w{uuid.uuid4().hex[:8]}.")
    create_topics(broker.address, topics, 4)
    made = Scene(broker, topics, store, folder)
    try:
        made.start_worker().await_ready()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def _embedded_scene(
    embedded_broker: EmbeddedBroker, model_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    yield from _shared(embedded_broker, model_store, tmp_path_factory.mktemp("worker"))


@pytest.fixture(scope="session")
def _apache_scene(
    apache_kafka: ApacheKafka, model_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    yield from _shared(apache_kafka, model_store, tmp_path_factory.mktemp("worker"))


@pytest.fixture
def scene(broker: LocalBroker, request: pytest.FixtureRequest) -> Scene:
    """Topics with a ready worker, shared by the tests of the run: do nothing to it that others would notice."""
    name = "_embedded_scene" if isinstance(broker, EmbeddedBroker) else "_apache_scene"
    shared: Scene = request.getfixturevalue(name)
    return shared


@pytest.fixture
def empty_scene(broker: LocalBroker, topics: Topics, model_store: Path, tmp_path: Path) -> Iterator[Scene]:
    """Topics of this test alone, without a worker yet."""
    made = Scene(broker, topics, model_store, tmp_path)
    yield made
    made.close()
