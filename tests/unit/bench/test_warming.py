"""A broker is warm when its compiler has come to rest, and not measured before."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

from penstock.bench.warming import warm_up
from stream_workers.threads import NamedThread

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a thread's processor time")


def own(name: str) -> dict[str, int]:
    return {name: os.getpid()}


class Compiler:
    """A thread of this process that works like a compiler does while `busy` is set."""

    def __init__(self, name: str = "C2 CompilerThre") -> None:
        self.busy, self._over = threading.Event(), threading.Event()
        self._thread = NamedThread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        # Without a time-out: one that looks every 10 ms works too.
        while self.busy.wait() and not self._over.is_set():
            sum(range(1000))

    def end(self) -> None:
        self._over.set()
        self.busy.set()
        self._thread.join()

    def work(self, number: int) -> None:
        """What is done to warm up; there is something to compile the first three times."""
        if number < 3:
            self.busy.set()
        time.sleep(0.2)
        self.busy.clear()


def test_the_work_is_done_until_the_compiler_rests() -> None:
    compiler = Compiler()
    try:
        assert warm_up(compiler.work, lambda: own("broker"), least=1, most=10) == 4
        assert warm_up(compiler.work, lambda: own("broker"), least=1, most=2) == 2, "never more than `most`"
        assert warm_up(lambda _: compiler.work(9), lambda: own("broker"), least=3, most=10) == 3, "nor fewer"
    finally:
        compiler.end()


def test_what_prepares_the_work_is_not_looked_at() -> None:
    compiler = Compiler()
    try:
        assert warm_up(lambda _: compiler.work(9), lambda: own("broker"), least=1, most=10, prepare=compiler.work) == 1
    finally:
        compiler.end()


@pytest.mark.parametrize("name", ["C2 CompilerThre", "data-plane-kafk"])
def test_only_a_brokers_compiler_counts(name: str) -> None:
    compiler = Compiler(name)
    mine = own("worker" if "Compiler" in name else "broker")
    try:
        assert warm_up(compiler.work, lambda: mine, least=1, most=10) == 1
    finally:
        compiler.end()


def test_a_compiler_that_ended_meanwhile_does_not_hide_another() -> None:
    gone, compiler = Compiler(), Compiler("C1 CompilerThre")
    gone.busy.set()
    time.sleep(0.5)

    def work(number: int) -> None:
        compiler.work(number)
        if number == 0:
            gone.end()

    try:
        assert warm_up(work, lambda: own("broker"), least=1, most=10) == 4
    finally:
        compiler.end()
