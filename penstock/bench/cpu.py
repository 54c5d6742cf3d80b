"""Whose processor time a stretch of a benchmark took: by process and thread, and what nobody used."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

# Threads that took less of a row, in microseconds, are told in the process's sum only.
_LEAST: Final = 0.001


@dataclass(frozen=True, slots=True)
class Processor:
    """Seconds that each thread has worked and waited for a core, by process, id and name; `idle`: of all cores.

    Linux tells them (`/proc/PID/task/TID/schedstat`); elsewhere there are none.
    """

    threads: Mapping[tuple[str, str, str], tuple[float, float]]
    idle: float

    @classmethod
    def now(cls, processes: Mapping[str, int]) -> Processor:
        """As it stands; `processes`: what to call them, and their ids."""
        found: dict[tuple[str, str, str], tuple[float, float]] = {}
        for process, pid in processes.items():
            for task in Path(f"/proc/{pid}/task").glob("*"):
                try:
                    name = (task / "comm").read_text().strip()
                    worked, waited, _ = (task / "schedstat").read_text().split()
                except OSError:  # the thread has just ended
                    continue
                found[process, task.name, name] = int(worked) / 1e9, int(waited) / 1e9
        return cls(found, float(psutil.cpu_times().idle))

    def since(self, before: Processor, rows: int) -> dict[str, Any]:
        """Microseconds a row since `before`: {"idle", process: {"worked", "threads": {name: {"worked", "waited"}}}}.

        Threads of one kind, whose names differ by a number, are one.
        """
        sums: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0]))
        for (process, task, name), now in self.threads.items():
            then = before.threads.get((process, task, name), (0.0, 0.0))
            kind = sums[process][name.rstrip("0123456789").rstrip("-#") or name]
            for place in (0, 1):
                kind[place] += (now[place] - then[place]) / rows * 1e6
        found: dict[str, Any] = {"idle": round((self.idle - before.idle) / rows * 1e6, 4)}
        for process, kinds in sums.items():
            ranked = sorted(kinds.items(), key=lambda one: -one[1][0])
            found[process] = {
                "worked": round(sum(worked for worked, _ in kinds.values()), 4),
                "threads": {
                    name: {"worked": round(worked, 4), "waited": round(waited, 4)}
                    for name, (worked, waited) in ranked
                    if worked >= _LEAST
                },
            }
        return found


def processor_seconds(pid: int) -> float:
    """Processor seconds of a process so far: to the nanosecond where Linux tells its threads', else to 10 ms."""
    fine = sum(worked for worked, _ in Processor.now({"": pid}).threads.values())
    times = psutil.Process(pid).cpu_times()
    return fine or float(times.user + times.system)
