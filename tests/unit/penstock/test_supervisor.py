"""The supervisor keeps processes running with growing pauses and takes them down in order, itself included."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import until

from penstock.child import spawn, tail
from penstock.running import started_at
from penstock.supervisor import BackOff, Ended, Program, Restarts, ServiceError, Supervisor

SHELL = "/bin/sh"
FOREVER = (SHELL, "-c", "exec tail -f /dev/null")


def program(tmp_path: Path, name: str, script: str, **more: float) -> Program:
    return Program(name, [SHELL, "-c", script], tmp_path / f"{name}.log", **more)  # type: ignore[arg-type]


def test_pauses_double_up_to_the_cap() -> None:
    restarts = Restarts(BackOff(first=0.5, cap=30, healthy=60))
    assert [restarts.pause(0.1) for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_healthy_run_forgets_the_failures_before_it() -> None:
    restarts = Restarts(BackOff(first=0.5, cap=30, healthy=60))
    for _ in range(5):
        restarts.pause(59.9)
    assert restarts.pause(60.0) == 0.5
    assert restarts.pause(1.0) == 1.0


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=3000))
def test_it_never_gives_up_and_never_waits_longer_than_the_cap(runs: list[float]) -> None:
    restarts = Restarts(BackOff(first=0.5, cap=30, healthy=60))
    assert all(0.5 <= restarts.pause(ran) <= 30 for ran in runs)


def test_a_service_that_ends_is_started_again_and_said_so(tmp_path: Path) -> None:
    ended: list[Ended] = []
    again = threading.Event()
    supervisor = Supervisor(ended.append, lambda _service: again.set(), back_off=BackOff(first=0.01))
    service = Program("one", FOREVER, tmp_path / "one.log")
    supervisor.start(service)
    first = service.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert again.wait(20)
    assert service.pid not in (first, None)
    supervisor.stop()
    assert service.pid is None
    assert str(ended[0]) == (f"one was ended by signal 9; it starts again in 0.0 s; its log is {tmp_path / 'one.log'}")
    assert len(ended) == 1, "what was stopped on purpose is no news"


def test_a_held_service_is_down_until_it_may_go_on_and_that_is_no_failure(tmp_path: Path) -> None:
    ended: list[Ended] = []
    again = threading.Semaphore(0)
    supervisor = Supervisor(ended.append, lambda _service: again.release(), back_off=BackOff(first=3600, cap=3600))
    one, other = (Program(name, FOREVER, tmp_path / name) for name in ("one", "other"))
    supervisor.start(one, other)
    pids = {one.pid, other.pid}
    for _ in range(3):
        supervisor.hold([one], 5)
        until(lambda: one.pid is None, 20, "it still runs")
        assert not again.acquire(timeout=0.3)
        supervisor.go_on([one], 5)
        assert again.acquire(timeout=20)
        assert one.pid not in pids
        pids.add(one.pid)
    assert other.pid in pids
    assert ended == []
    supervisor.stop()
    assert (one.pid, other.pid) == (None, None)


def test_a_service_that_goes_on_before_it_was_down_is_a_new_one_all_the_same(tmp_path: Path) -> None:
    again = threading.Event()
    supervisor = Supervisor(on_restart=lambda _service: again.set())
    deaf = program(tmp_path, "deaf", f"trap '' TERM; touch {tmp_path}/up; exec tail -f /dev/null")
    supervisor.start(deaf)
    until((tmp_path / "up").exists, 20, "it did not come up")
    first = deaf.pid
    supervisor.hold([deaf], 0.3)
    supervisor.go_on([deaf], 0.3)
    assert again.wait(20)
    assert deaf.pid not in (first, None)
    supervisor.stop()


def test_a_service_held_in_its_pause_waits_for_that_alone(tmp_path: Path) -> None:
    ended, again = threading.Event(), threading.Event()
    back_off = BackOff(first=3600, cap=3600)
    supervisor = Supervisor(lambda _ended: ended.set(), lambda _service: again.set(), back_off=back_off)
    service = Program("one", FOREVER, tmp_path / "one.log")
    supervisor.start(service)
    assert service.pid is not None
    os.kill(service.pid, signal.SIGKILL)
    assert ended.wait(20)
    supervisor.hold([service], 5)
    assert not again.wait(0.3)
    supervisor.go_on([service], 5)
    assert again.wait(20)
    assert service.pid is not None
    supervisor.stop()


def test_stopping_does_not_wait_for_what_is_held(tmp_path: Path) -> None:
    supervisor = Supervisor()
    service = Program("one", FOREVER, tmp_path / "one.log")
    supervisor.start(service)
    supervisor.hold([service], 5)
    until(lambda: service.pid is None, 20, "it still runs")
    stopper = threading.Thread(target=supervisor.stop, daemon=True)
    stopper.start()
    stopper.join(20)
    assert not stopper.is_alive()
    assert service.pid is None


def test_a_restart_is_told_once_the_service_is_ready(tmp_path: Path) -> None:
    class Slow(Program):
        fit = threading.Event()

        def ready(self) -> bool:
            return self.fit.is_set()

    told = threading.Event()
    supervisor = Supervisor(on_restart=lambda _service: told.set(), back_off=BackOff(first=0.01))
    service = Slow("one", FOREVER, tmp_path / "one.log")
    service.fit.set()
    supervisor.start(service)
    first = service.pid
    assert first is not None
    service.fit.clear()
    os.kill(first, signal.SIGKILL)
    until(lambda: service.pid not in (first, None), 20, "it was not started again")
    assert not told.wait(0.3)
    service.fit.set()
    assert told.wait(20)
    supervisor.stop()


def test_services_stop_in_the_reverse_order_of_their_start(tmp_path: Path) -> None:
    order = tmp_path / "order"
    supervisor = Supervisor()
    for name in ("broker", "ingest", "worker"):
        marker = tmp_path / f"{name}.up"
        script = (
            f"trap 'echo {name} >> {order}; exit 0' TERM; touch {marker}; while :; do read x < {tmp_path}/never; done"
        )
        if not (tmp_path / "never").exists():
            os.mkfifo(tmp_path / "never")
        supervisor.start(program(tmp_path, name, script))
        until(marker.exists, 20, f"{name} did not come up")
    supervisor.stop()
    supervisor.stop()
    assert order.read_text().split() == ["worker", "ingest", "broker"]


def test_a_service_deaf_to_sigterm_is_killed_after_its_time(tmp_path: Path) -> None:
    deaf = program(tmp_path, "deaf", f"trap '' TERM; touch {tmp_path}/up; exec tail -f /dev/null", stop_seconds=0.2)
    supervisor = Supervisor()
    supervisor.start(deaf)
    until((tmp_path / "up").exists, 20, "it did not come up")
    supervisor.stop()
    assert deaf.pid is None
    assert deaf.wait() == -signal.SIGKILL


def test_stopping_does_not_wait_for_a_pause_to_end(tmp_path: Path) -> None:
    ended = threading.Event()
    supervisor = Supervisor(lambda _ended: ended.set(), back_off=BackOff(first=3600, cap=3600))
    service = Program("one", FOREVER, tmp_path / "one.log")
    supervisor.start(service)
    assert service.pid is not None
    os.kill(service.pid, signal.SIGKILL)
    assert ended.wait(20)
    stopper = threading.Thread(target=supervisor.stop, daemon=True)
    stopper.start()
    stopper.join(20)
    assert not stopper.is_alive()


def test_a_service_that_ends_before_it_is_ready_names_its_last_words_and_its_log(tmp_path: Path) -> None:
    service = Program(
        "bad", [SHELL, "-c", "echo no such model; exit 2"], tmp_path / "bad.log", ready_url="http://127.0.0.1:1/"
    )
    supervisor = Supervisor()
    with pytest.raises(ServiceError) as caught:
        supervisor.start(service)
    supervisor.stop()
    log = tmp_path / "bad.log"
    assert str(caught.value) == f"bad ended with status 2 before it was ready; its log is {log}: no such model"


def test_the_last_words_of_a_process_that_logs_json_are_its_message(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text('starting\n{"level": "ERROR", "message": "no such topic", "exception": "..."}\n\n')
    assert tail(log) == "no such topic"
    log.write_text("[1, 2]\n")
    assert tail(log) == "[1, 2]"
    assert tail(tmp_path / "none") == ""


def test_a_service_that_is_never_ready_is_given_up_in_time(tmp_path: Path) -> None:
    service = Program("slow", FOREVER, tmp_path / "slow.log", ready_url="http://127.0.0.1:1/")
    supervisor = Supervisor()
    with pytest.raises(ServiceError, match="slow is not ready after 0 s"):
        supervisor.start(service, seconds=0.3)
    assert service.pid is not None
    supervisor.stop()
    assert service.pid is None


def test_a_command_that_does_not_exist_says_so_in_its_log(tmp_path: Path) -> None:
    log = tmp_path / "none.log"
    child = spawn([str(tmp_path / "nothing")], log)
    assert child.wait(20) == 127
    assert tail(log) == f"cannot execute {tmp_path / 'nothing'}: No such file or directory"


def test_a_child_started_by_a_thread_outlives_that_thread(tmp_path: Path) -> None:
    children: list[subprocess.Popen[bytes]] = []
    thread = threading.Thread(target=lambda: children.append(spawn(FOREVER, tmp_path / "log")))
    thread.start()
    thread.join()
    (child,) = children
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.5)
    child.kill()
    child.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, threading; from pathlib import Path\n"
        "from penstock.supervisor import Program, Supervisor\n"
        "services = [Program(str(n), sys.argv[2:], Path(sys.argv[1]) / str(n)) for n in range(3)]\n"
        "Supervisor().start(*services)\n"
        "print(*(one.pid for one in services), flush=True)\n"
        "threading.Event().wait()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), *FOREVER], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    parent.stdout.close()
    assert len(pids) == 3
    assert all(started_at(pid) is not None for pid in pids)
    parent.kill()
    parent.wait()
    until(lambda: all(started_at(pid) is None for pid in pids), 20, f"{pids} are left behind")
