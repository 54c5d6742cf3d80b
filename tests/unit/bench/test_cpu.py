"""Processor time is told by process and kind of thread, of the stretch between two looks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from penstock.bench.cpu import Processor, processor_seconds
from stream_workers.threads import NamedThread


def test_what_was_worked_between_two_looks_is_told_by_kind_of_thread() -> None:
    before = Processor(
        {("broker", "7", "handler-1"): (1.0, 0.5), ("broker", "8", "handler-2"): (2.0, 0.0)}, idle=10.0
    )  # fmt: skip
    now = Processor(
        {
            ("broker", "7", "handler-1"): (3.0, 0.5),
            ("broker", "8", "handler-2"): (3.0, 0.25),
            ("broker", "9", "C2 Compiler"): (0.25, 0.0),
            ("broker", "10", "timer"): (1e-9, 0.0),
            ("worker", "7", "poll"): (0.5, 0.125),
        },
        idle=12.0,
    )
    assert now.since(before, 1_000_000) == {
        "idle": 2.0,
        "broker": {
            "worked": 3.25,
            "threads": {"handler": {"worked": 3.0, "waited": 0.25}, "C2 Compiler": {"worked": 0.25, "waited": 0.0}},
        },
        "worker": {"worked": 0.5, "threads": {"poll": {"worked": 0.5, "waited": 0.125}}},
    }


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells it")
def test_a_thread_of_this_process_is_found_with_what_it_worked() -> None:
    began, stop = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        while not stop.is_set():
            pass

    thread = NamedThread(target=work, name="spinning")
    thread.start()
    try:
        assert began.wait(20)
        before = Processor.now({"own": os.getpid()})
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass
        found = Processor.now({"own": os.getpid()}).since(before, 1_000_000)["own"]
    finally:
        stop.set()
        thread.join(20)
    assert 0 < found["threads"]["spinning"]["worked"] < 20
    assert found["worked"] >= found["threads"]["spinning"]["worked"]


def test_a_process_s_time_is_what_it_says_of_itself() -> None:
    spin = "import time\nwhile time.process_time() < 0.3: pass\nprint(time.process_time(), flush=True)\ninput()"
    # A process of its own: of this one a thread of another test may end meanwhile, and take its time along.
    with subprocess.Popen([sys.executable, "-c", spin], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        said = float(child.stdout.readline())
        # Where only the system's ticks are to be had they are 10 ms.
        assert processor_seconds(child.pid) == pytest.approx(said, abs=0.05)
        child.communicate(b"\n")
