"""What a worker does whose device fails while a version is being loaded, which then has no batch to fail."""

from __future__ import annotations

from pathlib import Path

import pytest
from faulty_session import DEVICE, Faults, opening
from onnx_models import lookup

from models.errors import DeviceLostError
from models.loading import LoadedModel
from models.registry import ModelStore
from models.session import Session
from schemas.codec import Codec
from schemas.records import Alert
from schemas.topics import Topics
from stream_workers.ops import WorkerMetrics, new_registry
from stream_workers.scoring_config import ScoringConfig
from stream_workers.standby import Standby


class NoAlerts:
    """A topic that nobody has written to, and nobody reads."""

    def __init__(self, *_: object) -> None:
        pass

    def put(self, alert: Alert) -> None:
        del alert

    def states(self) -> dict[str, str]:
        return {}


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    found = Faults()
    monkeypatch.setattr("stream_workers.standby.AlertTopic", NoAlerts)
    monkeypatch.setattr(Session, "open", opening(lambda: found))
    return found


def standby(tmp_path: Path, on_device_loss: str, *, cpu_on_failure: bool = True) -> Standby:
    store = ModelStore(tmp_path / "store")
    store.add_onnx("m", "1", lookup(tmp_path / "m.onnx"))

    def properties(*_: object, **__: object) -> dict[str, object]:
        return {}

    config = ScoringConfig(
        "w", properties, properties, properties, Topics(),
        device="cuda", on_device_loss=on_device_loss, cpu_on_failure=cpu_on_failure,
    )  # fmt: skip
    return Standby(
        config, Codec(), store, WorkerMetrics(new_registry(), "w"),
        find=lambda _model, _version: None, on_change=lambda: None, now_us=lambda: 0,
    )  # fmt: skip


def degraded(own: Standby, model: LoadedModel) -> str:
    """What the next reply of a version says."""
    return own.ladders.pick(model).degraded


def test_a_serving_worker_answers_on_the_cpu_and_leaves(tmp_path: Path, faults: Faults) -> None:
    own = standby(tmp_path, "leave")
    own.serves, faults.lost = True, True
    found = own.load("m", "1")
    assert (found.device, degraded(own, found)) == ("cpu", "cpu")
    left = own.tick()
    assert isinstance(left, DeviceLostError)
    assert "its device is dead: " in str(left)


def test_a_worker_that_takes_no_requests_yet_waits_for_its_device(tmp_path: Path, faults: Faults) -> None:
    own = standby(tmp_path, "leave")
    faults.lost = True
    with pytest.raises(DeviceLostError):
        own.load("m", "1")
    faults.lost = False
    found = own.load("m", "1")
    assert (found.device, degraded(own, found), own.tick()) == (DEVICE, "", None)


def test_a_worker_that_stays_serves_on_the_cpu_from_the_beginning(tmp_path: Path, faults: Faults) -> None:
    own = standby(tmp_path, "cpu")
    faults.lost = True
    found = own.load("m", "1")
    assert (found.device, degraded(own, found), own.tick()) == ("cpu", "cpu", None)


def test_where_the_cpu_may_not_serve_nothing_is_loaded_there(tmp_path: Path, faults: Faults) -> None:
    own = standby(tmp_path, "cpu", cpu_on_failure=False)
    own.serves, faults.lost = True, True
    with pytest.raises(DeviceLostError):
        own.load("m", "1")
