"""What several of the worker's unit tests run."""

from __future__ import annotations

import pytest
from onnx_models import lookup

from models.loading import LoadedModel
from models.registry import ModelStore


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Version 1 of "m", which looks its input "x" up, on the CPU."""
    folder = tmp_path_factory.mktemp("models")
    store = ModelStore(folder / "store")
    store.add_onnx("m", "1", lookup(folder / "lookup.onnx"))
    return LoadedModel.load(store, "m", "1", "cpu")
