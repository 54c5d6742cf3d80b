"""Few requests are run by the thread that brings them, if that is over in a moment; all else by the device."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from worker_pieces import requests

from models.batching import BatchLimits
from models.loading import LoadedModel
from stream_workers.choosing import SHORT_SECONDS
from stream_workers.device import Device
from stream_workers.lanes import LaneKey

KEY = LaneKey("m", "1")
OTHER = LaneKey("m", "1", "e", "treatment")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, the time in which the thread that brings requests looks for more is not over."""
    monkeypatch.setattr("stream_workers.device.SHORT_SECONDS", 60.0)


class Witness:
    """A sink that notes who ran and who published each piece; `go` holds the run up."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.published: list[str] = []
        self.began, self.go, self.done = threading.Event(), threading.Event(), threading.Event()
        self.go.set()

    def expired(self, piece: Any) -> Any:
        self.began.set()
        assert self.go.wait(20)
        self.ran.append(threading.current_thread().name)
        return piece

    def scored(self, *_: Any) -> None:
        self.published.append(threading.current_thread().name)
        self.done.set()

    def failed(self, *_: Any) -> None:
        raise AssertionError

    unavailable = failed


@contextmanager
def started(*, lends: bool = True) -> Iterator[Device]:
    device = Device()
    device.start(1, lends=lends)
    try:
        yield device
    finally:
        device.stop()


def submit(device: Device, model: LoadedModel, sink: Any, key: LaneKey = KEY, takes: float | None = 0.0001) -> None:
    """Submit a request of a lane of which it is known what a run takes; None: of which nothing is known."""
    device.submit(key, model, requests([0], inputs={"x": np.array([0])}), sink, BatchLimits)
    service = device._lanes[key].policy.service
    if takes is None:
        service.__init__()  # type: ignore[misc]
    else:
        for _ in range(200):
            service.observe(1, takes)


def brought_by_a_bug(device: Device, model: LoadedModel, sink: Any) -> None:
    with device.lent():
        submit(device, model, sink)
        raise ZeroDivisionError


def test_a_short_run_is_run_and_published_by_who_brings_it(model: LoadedModel) -> None:
    sink, me = Witness(), threading.current_thread().name
    with started() as device:
        for _ in range(3):
            with device.lent():
                submit(device, model, sink)
            assert device.rows(bulk=False) == 0
    assert sink.ran == sink.published == [me] * 3


def test_no_other_thread_is_woken_for_a_run_that_leaves_nothing(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink, woken = Witness(), []
    with started() as device:
        monkeypatch.setattr(device._wake, "notify", lambda *_: woken.append(threading.current_thread().name))
        with device.lent():
            submit(device, model, sink)
        assert sink.done.is_set()
        assert woken == []
        monkeypatch.undo()


def test_what_one_poll_brings_for_two_lanes_is_all_run_there(model: LoadedModel) -> None:
    sink, me = Witness(), threading.current_thread().name
    with started() as device:
        with device.lent():
            submit(device, model, sink)
            submit(device, model, sink, OTHER)
        assert device.rows(bulk=False) == 0
    assert sink.published == [me] * 2


@pytest.mark.parametrize("takes", [None, SHORT_SECONDS * 2])
def test_a_run_that_is_long_or_unknown_is_not_waited_for(model: LoadedModel, takes: float | None) -> None:
    sink = Witness()
    sink.go.clear()
    with started() as device:
        with device.lent():
            submit(device, model, sink, takes=takes)
        assert sink.began.wait(20)
        assert not sink.ran
        sink.go.set()
        assert sink.done.wait(20)
    assert sink.ran == ["device-0"]


def test_what_is_left_when_the_time_is_over_is_run_by_the_device(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_workers.device.SHORT_SECONDS", 0.0)
    sink = Witness()
    with started() as device:
        with device.lent():
            submit(device, model, sink)
        assert sink.done.wait(20)
    assert sink.ran == ["device-0"]


def test_bulk_is_left_to_the_device(model: LoadedModel) -> None:
    sink = Witness()
    with started() as device:
        with device.lent():
            submit(device, model, sink, LaneKey("m", "1", bulk=True))
        assert sink.done.wait(20)
    assert sink.ran == ["device-0"]


def test_beside_a_run_the_device_goes_on_with_what_came(model: LoadedModel) -> None:
    slow, quick = Witness(), Witness()
    slow.go.clear()
    with started() as device:
        submit(device, model, slow, OTHER)
        assert slow.began.wait(20)
        with device.lent():
            submit(device, model, quick)
        assert not quick.began.is_set()
        slow.go.set()
        assert quick.done.wait(20)
    assert quick.ran == ["device-0"]


def test_others_who_submit_meanwhile_wake_the_device(model: LoadedModel) -> None:
    sink = Witness()
    with started() as device, device.lent():
        thread = threading.Thread(target=submit, args=(device, model, sink))
        thread.start()
        thread.join()
        assert sink.done.wait(20)
    assert sink.ran == ["device-0"]


def test_where_the_device_does_not_lend_its_threads_run_everything(model: LoadedModel) -> None:
    sink = Witness()
    with started(lends=False) as device:
        with device.lent():
            submit(device, model, sink)
        assert sink.done.wait(20)
    assert sink.ran == ["device-0"]


def test_what_was_submitted_before_a_bug_in_the_poll_is_run_all_the_same(model: LoadedModel) -> None:
    sink = Witness()
    with started() as device:
        with pytest.raises(ZeroDivisionError):
            brought_by_a_bug(device, model, sink)
        assert sink.done.wait(20)
        with device.lent():
            submit(device, model, sink)
    assert sink.ran == ["device-0", threading.current_thread().name]


def test_a_bug_in_the_run_is_told_like_one_in_a_device_thread(model: LoadedModel) -> None:
    class Broken(Witness):
        def expired(self, piece: Any) -> Any:
            raise ZeroDivisionError(piece)

    with started() as device:
        with pytest.raises(ZeroDivisionError), device.lent():
            submit(device, model, Broken())
        assert isinstance(device.failure, ZeroDivisionError)
