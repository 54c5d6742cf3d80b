"""Logs of a process that machines and people can read: one JSON object a line, or one plain line, on stderr."""

from __future__ import annotations

import json as json_
import logging
import sys
import threading
import time
from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, TextIO

from opentelemetry import trace

# What every LogRecord has; anything else came in by `extra=`.
_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _OWN}


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time, level, logger, process, message, trace ids, exception, then `extra` fields.

    An `extra` field that has the name of one of these stands behind `extra_`, so that no line loses its own.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "process": self._process,
            "message": record.getMessage(),
        }
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line["trace_id"] = trace.format_trace_id(span.trace_id)
            line["span_id"] = trace.format_span_id(span.span_id)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        for key, value in _extra(record).items():
            line[f"extra_{key}" if key in line else key] = value
        return json_.dumps(line, ensure_ascii=False, default=str, skipkeys=True)


class PlainFormatter(logging.Formatter):
    """A record as a line for people: time, level, process, message, then `extra` fields as key=value."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line, and an exception's traceback below it."""
        extra = "".join(f" {key}={value}" for key, value in _extra(record).items())
        text = f"{_time(record)} {record.levelname:<7} {self._process}: {record.getMessage()}{extra}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if record.stack_info:
            text += "\n" + self.formatStack(record.stack_info)
        return text


def configure_logging(json: bool, level: int | str, process: str, stream: TextIO | None = None) -> None:
    """Send the whole process's logs to stderr (or `stream`), in place of whatever was configured before.

    `level`: a logging level or its name in any case; raises ValueError on an unknown one. `process` names the process
    in every line ("worker-1"). With `json` an exception that nobody caught is logged as one line too.
    """
    known = logging.getLevelNamesMapping()
    if isinstance(level, str):
        if level.upper() not in known:
            raise ValueError(
                f"unknown log level {level!r}: use one of {', '.join(sorted(known, key=known.__getitem__))}"
            )
        level = known[level.upper()]
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(process) if json else PlainFormatter(process))
    root = logging.getLogger()
    for old in tuple(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    sys.excepthook = _log_uncaught if json else sys.__excepthook__
    threading.excepthook = _log_uncaught_in_thread if json else threading.__excepthook__


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    logging.getLogger("penstock").critical("uncaught %s: %s", kind.__name__, error, exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if issubclass(args.exc_type, SystemExit):
        return
    error = args.exc_value or args.exc_type()
    name = args.thread.name if args.thread else "?"
    logging.getLogger("penstock").critical(
        "uncaught %s in thread %s: %s",
        args.exc_type.__name__,
        name,
        error,
        exc_info=(args.exc_type, error, args.exc_traceback),
    )


class OncePer:
    """Lets one event of a kind through each period and counts the others, so that a fault cannot flood the log."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._last: dict[Hashable, float] = {}
        self._held: dict[Hashable, int] = {}

    def due(self, key: Hashable) -> int:
        """0: keep quiet. Otherwise how many events this one stands for: itself and those kept quiet since the last."""
        now = self._clock()
        count = self._held.get(key, 0) + 1
        last = self._last.get(key)
        if last is not None and now - last < self._seconds:
            self._held[key] = count
            return 0
        self._last[key] = now
        self._held[key] = 0
        return count
