"""Warming a broker up: one that has served for a while compiles nothing any more; that is the one to be measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from penstock.bench.cpu import Processor

# Of a core. A broker that was just started may give its compiler a quarter of one.
QUIET: Final = 0.02


def warm_up(
    work: Callable[[int], object],
    processes: Callable[[], Mapping[str, int]],
    *,
    least: int,
    most: int,
    prepare: Callable[[int], object] = lambda _number: None,
) -> int:
    """Do `work`, told how often it was done, until the broker's compiler takes less than `QUIET` of a core meanwhile.

    Not fewer than `least` times, nor more than `most`; returns how many. `processes`: ids by name, "broker" among them
    where it is ours. One that does not compile is warm after `least`. `prepare`: done before each `work`, and not
    looked at: while it lasts the compiler may rest from what is to be measured.
    """
    for number in range(most):
        prepare(number)
        before, began = Processor.now(processes()), time.perf_counter()
        work(number)
        share = compiled(before, Processor.now(processes())) / max(time.perf_counter() - began, 1e-9)
        if number + 1 >= least and share < QUIET:
            return number + 1
    return most


def compiled(before: Processor, now: Processor) -> float:
    """Processor seconds that the compiler's threads of a broker in Java have worked between two looks."""
    # They come and go with the work.
    return sum(
        worked - before.threads.get(key, (0.0, 0.0))[0]
        for key, (worked, _) in now.threads.items()
        if key[0] == "broker" and "Compiler" in key[2]
    )
