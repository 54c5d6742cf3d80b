"""Logs: one line a record, with everything that was said in it."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from stream_workers.ops import OncePer, configure_logging


@pytest.fixture(autouse=True)
def _root_logger_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def json_line(stream: io.StringIO) -> dict[str, object]:
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    loaded = json.loads(lines[0])
    assert isinstance(loaded, dict)
    return loaded


def test_a_json_record_is_one_line_with_utc_time_level_logger_process_and_extra_fields() -> None:
    stream = io.StringIO()
    configure_logging(True, "info", "worker-1", stream)
    logging.getLogger("a.b").warning("two\nlines of %s", "tëxt", extra={"partition": 3, "path": object})
    line = json_line(stream)
    time = datetime.fromisoformat(str(line.pop("time")))
    assert time.utcoffset() == timedelta(0)
    assert line == {
        "level": "WARNING",
        "logger": "a.b",
        "process": "worker-1",
        "message": "two\nlines of tëxt",
        "partition": 3,
        "path": "<class 'object'>",
    }


def test_an_exception_stays_in_its_line() -> None:
    stream = io.StringIO()
    configure_logging(True, logging.INFO, "p", stream)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger().exception("failed")
    assert "ValueError: broken" in str(json_line(stream)["exception"])


def test_an_extra_field_does_not_replace_a_field_of_the_line() -> None:
    stream = io.StringIO()
    configure_logging(True, "INFO", "p", stream)
    logging.getLogger().info("hello", extra={"level": "mine"})
    line = json_line(stream)
    assert (line["level"], line["extra_level"]) == ("INFO", "mine")


def test_a_plain_line_reads_from_left_to_right() -> None:
    stream = io.StringIO()
    configure_logging(False, "INFO", "ingest", stream)
    logging.getLogger().info("block written", extra={"rows": 5})
    assert stream.getvalue().endswith("INFO    ingest: block written rows=5\n")


def test_levels_below_the_configured_one_are_silent_and_an_unknown_level_is_named() -> None:
    stream = io.StringIO()
    configure_logging(True, "warning", "p", stream)
    logging.getLogger().info("quiet")
    assert stream.getvalue() == ""
    with pytest.raises(ValueError, match=r"unknown log level 'loud': use one of .*INFO"):
        configure_logging(True, "loud", "p", stream)


def test_configuring_twice_logs_once() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging(True, "INFO", "p", first)
    configure_logging(True, "INFO", "p", second)
    logging.getLogger().info("once")
    assert first.getvalue() == ""
    assert json_line(second)["message"] == "once"


@pytest.mark.parametrize("where", ["main", "thread"])
def test_an_exception_nobody_caught_is_one_json_line_on_stderr(where: str) -> None:
    run = "fail()" if where == "main" else "t = threading.Thread(target=fail, name='poll'); t.start(); t.join()"
    code = f"""
import threading
from stream_workers.ops import configure_logging
def fail(): raise RuntimeError("gone")
configure_logging(True, "INFO", "worker-1")
{run}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == (1 if where == "main" else 0)
    line = json_line(io.StringIO(done.stderr))
    assert (line["level"], line["process"]) == ("CRITICAL", "worker-1")
    assert "RuntimeError: gone" in str(line["exception"])


def test_a_fault_is_told_once_a_period_and_the_next_line_counts_those_in_between() -> None:
    now = 100.0
    once = OncePer(60, clock=lambda: now)
    assert [once.due("a"), once.due("a"), once.due("b"), once.due("a")] == [1, 0, 1, 0]
    now = 160.0
    assert once.due("a") == 3
    assert once.due("a") == 0
