"""Which versions have to leave a device's memory for another to fit: the least recently used, within a budget. Pure.

Never leaves what is fixed (pinned, or the default of a pre-loaded model) or busy (work of it waits or runs). Where the
idle ones would not make room, busy ones are named that should take nothing new until they are idle: whoever keeps a
budget then waits for the work under way, and not for traffic to stop.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final, Literal

Key = tuple[str, str]
"""A model's name and version."""

FITS: Final = "fits"
LATER: Final = "later"
NEVER: Final = "never"


@dataclass(frozen=True, slots=True)
class Held:
    """A version in memory: its bytes, and when it was last asked for (seconds of a steady clock)."""

    key: Key
    bytes: int
    used: float
    fixed: bool = False
    busy: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done for a version to fit.

    `fits`: it does, once those in `evict` are gone. `later`: it will, once those in `drain` are idle and gone as well.
    `never`: not even then; nothing is named, and nothing should be evicted in vain.
    """

    outcome: Literal["fits", "later", "never"]
    evict: tuple[Key, ...] = ()
    drain: tuple[Key, ...] = ()


def plan(loaded: Collection[Held], wanted: int, budget: int | None) -> Plan:
    """What makes room for `wanted` bytes beside what is loaded, the least recently used first. `budget` None: no limit.

    With `wanted` 0: what has to leave for the budget to hold at all.
    """
    if budget is None:
        return Plan(FITS)
    over = sum(one.bytes for one in loaded) + wanted - budget
    idle = _oldest_first(one for one in loaded if not one.fixed and not one.busy)
    evict, over = _enough(idle, over)
    if over <= 0:
        return Plan(FITS, evict)
    drain, over = _enough(_oldest_first(one for one in loaded if not one.fixed and one.busy), over)
    return Plan(LATER, evict, drain) if over <= 0 else Plan(NEVER)


def _oldest_first(held: Iterable[Held]) -> list[Held]:
    return sorted(held, key=lambda one: (one.used, one.key))


def _enough(held: Iterable[Held], over: int) -> tuple[tuple[Key, ...], int]:
    """As many as it takes, and what is still over the budget then."""
    chosen = []
    for one in held:
        if over <= 0:
            break
        chosen.append(one.key)
        over -= one.bytes
    return tuple(chosen), over
