"""What a running local stack tells the other commands: the file `stack.json` in its state folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

FILE: Final = "stack.json"


@dataclass(frozen=True, slots=True)
class RunningStack:
    """Where a stack's processes listen.

    `kafka`: the keys of the settings' section `kafka` that the stack chose for its broker. `processes`: name to pid.
    `addresses`: name to what it listens on, for people. `started`: the start time of `pid`, in ticks since the boot,
    which tells the process from a later one of the same pid (0 where the system does not say).
    """

    pid: int
    started: int
    broker: str
    kafka: Mapping[str, Any]
    warehouse_port: int = 0
    addresses: Mapping[str, str] = field(default_factory=dict)
    processes: Mapping[str, int] = field(default_factory=dict)


def write_stack(state: Path, stack: RunningStack) -> None:
    """Write the file; a reader sees the old one or the new one, never a half."""
    scratch = state / f".{FILE}.{os.getpid()}"
    scratch.write_text(json.dumps(asdict(stack), indent=2) + "\n", "utf-8")
    scratch.replace(state / FILE)


def remove_stack(state: Path) -> None:
    """Remove the file; none is as good."""
    (state / FILE).unlink(missing_ok=True)


def read_stack(state: Path) -> RunningStack | None:
    """The stack that runs in `state`; None where there is none, or where it died and left its file."""
    try:
        stack = RunningStack(**json.loads((state / FILE).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return stack if started_at(stack.pid) == stack.started else None


def started_at(pid: int) -> int | None:
    """The start time of a process in ticks since the boot (proc(5), stat field 22); 0: unknown, None: no process."""
    try:
        # The second field is the program's name in brackets, which may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        pass
    else:
        return None if fields[0] in "ZX" else int(fields[19])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return 0
    return None if Path("/proc/self/stat").exists() else 0
