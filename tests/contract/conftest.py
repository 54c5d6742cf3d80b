"""One scoring worker on each broker for all contract tests that only ask it things."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx_models import fill_store
from worker_process import Scene

from penstock.brokers import LocalBroker
from producers.publisher import create_topics
from schemas.topics import Topics


@pytest.fixture(scope="session")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a model of each kind; see `fill_store`."""
    folder = tmp_path_factory.mktemp("models")
    return fill_store(folder / "store", folder).root


@pytest.fixture(scope="session")
def _scenes() -> Iterator[dict[str, Scene]]:
    running: dict[str, Scene] = {}
    yield running
    for scene in running.values():
        scene.close()


@pytest.fixture
def scene(
    broker: LocalBroker, _scenes: dict[str, Scene], model_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Scene:
    """Topics with a ready worker, shared by the tests of the run: do nothing to it that others would notice."""
    if broker.address not in _scenes:
        topics = Topics(prefix=f"w{uuid.uuid4().hex[:8]}.")
        create_topics(broker.address, topics, 4)
        made = _scenes[broker.address] = Scene(broker, topics, model_store, tmp_path_factory.mktemp("worker"))
        made.start_worker().await_ready()
    return _scenes[broker.address]


@pytest.fixture
def empty_scene(broker: LocalBroker, topics: Topics, model_store: Path, tmp_path: Path) -> Iterator[Scene]:
    """Topics of this test alone, without a worker yet."""
    made = Scene(broker, topics, model_store, tmp_path)
    yield made
    made.close()
