"""Which versions are in memory: each loaded once, in a thread of its own, and evicted for another one within a budget.

    begin(key) ──> make room (models.eviction) ──> load, warm up ──> measure ──> make room for what it really takes
                        │                                                              │
                        └── evict what is idle; let what is busy take nothing new ─────┘── or refuse it, naming its need

Before a version was ever loaded its need is taken to be the size of its files, which are its weights; afterwards it is
what the process grew by, warm-up included (`models.resident`). On a GPU, whose memory is nobody's to measure who shares
it, it stays the size of its files. What is evicted is forgotten here and by whoever
`on_gone` tells; its memory goes with the last reference to it. A version that is asked for while it leaves is loaded
again: its requests wait, they get no error.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import Final, Protocol

from models.errors import BudgetError
from models.eviction import FITS, NEVER, Held, Key, Plan, plan
from models.loading import LoadedModel
from models.resident import resident_bytes

log = logging.getLogger(__name__)

CPU: Final = "cpu"
# A version that could not be loaded is tried again after this long.
RETRY_SECONDS: Final = 10.0
# One that turned out too large when it was loaded: what was measured beside traffic may be more than it takes alone.
RELOAD_SECONDS: Final = 600.0
# Between two looks at what is busy, should nobody say that it became idle.
_LOOK_SECONDS: Final = 1.0

Loader = Callable[[str, str], LoadedModel]


class Rules(Protocol):
    """What residency has to know of a version and cannot know by itself."""

    def size(self, key: Key) -> int:
        """Bytes of its files. Raises `ModelError`."""

    def is_fixed(self, key: Key) -> bool:
        """Whether it is never evicted."""

    def is_busy(self, key: Key) -> bool:
        """Whether work of it waits for the device or runs."""


class Events(Protocol):
    """Who is told what becomes of versions, from the loading thread."""

    def loaded(self, model: str, version: str, seconds: float) -> None:
        """It is in memory; `seconds` from when it was asked for."""

    def evicted(self, model: str, version: str) -> None:
        """It made room for another one."""


class Residency:
    """The versions in memory and those on their way there. Safe from any thread."""

    def __init__(
        self,
        load: Loader,
        rules: Rules,
        *,
        budget: int | None = None,
        on_ready: Callable[[str, str], None],
        on_gone: Callable[[str, str], None],
        events: Events | None = None,
        clock: Callable[[], float] = monotonic,
        resident: Callable[[], int] = resident_bytes,
    ) -> None:
        """`budget`: bytes that all versions may take together; None: no limit, and nothing is measured.

        `on_ready`: a version became ready or failed; `on_gone`: one was unloaded, whose work, where there is any yet,
        is still to be done. `resident`: the bytes that this process holds.
        """
        self._load = load
        self._rules = rules
        self._budget = budget
        self._on_ready = on_ready
        self._on_gone = on_gone
        self._events = events
        self._clock = clock
        self._resident = resident
        self._loads: dict[Key, Future[LoadedModel]] = {}
        self._retry_at: dict[Key, float] = {}
        self._asked_at: dict[Key, float] = {}
        self._bytes: dict[Key, int] = {}
        self._took: dict[Key, float] = {}
        self._needs: dict[Key, int] = {}
        self._leaving: dict[Key, float] = {}
        self._wanted_again: set[Key] = set()
        self._lock = threading.Lock()
        self._looked = threading.Event()
        self._closing = False
        self._pool = ThreadPoolExecutor(1, "load")

    def begin(self, key: Key) -> Future[LoadedModel]:
        """The load of a version, started where it was not, or where it failed a while ago."""
        with self._lock:
            future = self._loads.get(key)
            retry_at = self._retry_at.get(key)
            if future is not None and (retry_at is None or self._clock() < retry_at):
                return future
            self._retry_at.pop(key, None)
            now = self._clock()
            self._asked_at.setdefault(key, now)
            future = self._loads[key] = self._pool.submit(self._open, key, now)
        # Outside the lock: a load that is already over calls back at once, and on_ready asks again.
        future.add_done_callback(lambda _: self._on_ready(*key))
        return future

    def ask(self, key: Key) -> Future[LoadedModel] | None:
        """The load of a version for somebody's work, once it is over; None until then."""
        self._asked_at[key] = self._clock()
        if key in self._leaving:
            with self._lock:
                if key in self._leaving:
                    self._wanted_again.add(key)
                    return None
        future = self.begin(key)
        return future if future.done() else None

    def retry(self, key: Key) -> None:
        """A version that failed may be tried again at once."""
        with self._lock:
            if key in self._retry_at:
                self._retry_at[key] = self._clock()

    def is_ready(self, key: Key) -> bool:
        """Whether it is in memory; a look that begins nothing and takes no lock, for every poll's sake."""
        future = self._loads.get(key)
        return future is not None and future.done() and not future.cancelled() and future.exception() is None

    def state(self, key: Key) -> str:
        """ready, failed, or loading, which it is from now on."""
        future = self.begin(key)
        if not future.done():
            return "loading"
        return "failed" if future.cancelled() or future.exception() is not None else "ready"

    def settled(self) -> dict[Key, BaseException | None]:
        """The versions whose load is over, and what went wrong with each."""
        with self._lock:
            known = dict(self._loads)
        return {key: one.exception() for key, one in known.items() if one.done() and not one.cancelled()}

    def asked_at(self, key: Key) -> float:
        """When somebody asked for it last."""
        return self._asked_at.get(key, float("-inf"))

    def took(self, key: Key) -> float:
        """Seconds from when a version was asked for to when it was in memory; 0 for one that is not."""
        return self._took.get(key, 0.0)

    def held_bytes(self) -> int:
        """Bytes of all versions in memory; 0 without a budget, since they are not measured then."""
        with self._lock:
            return sum(self._bytes.values())

    def drop(self, keys: Callable[[Key], bool]) -> list[Key]:
        """Unload the versions for which `keys` says so, and tell; only those whose load is over are asked about."""
        with self._lock:
            gone = [key for key, one in self._loads.items() if one.done() and keys(key)]
            for key in gone:
                self._forget(key)
        for key in gone:
            self._on_gone(*key)
        return gone

    def look_again(self) -> None:
        """Something may have become idle."""
        self._looked.set()

    def close(self) -> None:
        """Wait for what is being loaded; what waits for room gives up."""
        self._closing = True
        self._looked.set()
        self._pool.shutdown(cancel_futures=True)

    def _open(self, key: Key, asked: float) -> LoadedModel:
        try:
            found = self._load_within(key) if self._budget is not None else self._load(*key)
        except Exception as error:
            log.error("model %s version %s refused: %s", *key, error)
            # Set already where it need not be tried again so soon.
            self._retry_at.setdefault(key, self._clock() + RETRY_SECONDS)
            raise
        self._took[key] = self._clock() - asked
        if self._events is not None:
            self._events.loaded(*key, self._took[key])
        return found

    def _load_within(self, key: Key) -> LoadedModel:
        size = self._rules.size(key)
        known = self._needs.pop(key, None)
        self._make_room(key, size if known is None else known)
        before = self._resident()
        found = self._load(*key)
        # What other threads took meanwhile counts with it, so of two measurements the lower one is the better.
        need = max(size, self._resident() - before) if found.device == CPU else size
        self._needs[key] = need = need if known is None else min(need, known)
        try:
            self._make_room(key, need)
        except BudgetError:
            # The error is kept, and with it this frame: it must not keep the model as well.
            del found, self._needs[key]
            self._retry_at[key] = self._clock() + RELOAD_SECONDS
            raise
        with self._lock:
            self._bytes[key] = need
        return found

    def _make_room(self, key: Key, need: int) -> None:
        """Evict until `need` bytes fit. Raises `BudgetError` where they never will."""
        try:
            while True:
                self._looked.clear()
                found = self._plan(key, need)
                if found.outcome == NEVER:
                    raise BudgetError(self._no_room(key, need))
                for one in found.evict:
                    self._evict(one)
                if found.outcome == FITS:
                    return
                if self._closing:
                    raise BudgetError(f"model {key[0]} {key[1]} is not loaded any more: the worker stops")
                with self._lock:
                    for one in found.drain:
                        # As of now: who asks for it while it leaves must not make it look in use.
                        self._leaving.setdefault(one, self._asked_at.get(one, 0.0))
                self._looked.wait(_LOOK_SECONDS)
        finally:
            self._let_stay()

    def _plan(self, key: Key, need: int) -> Plan:
        with self._lock:
            sizes = {one: size for one, size in self._bytes.items() if one != key}
            used = {one: self._leaving.get(one, self._asked_at.get(one, 0.0)) for one in sizes}
        rules = self._rules
        held = [Held(one, size, used[one], rules.is_fixed(one), rules.is_busy(one)) for one, size in sizes.items()]
        return plan(held, need, self._budget)

    def _evict(self, key: Key) -> None:
        with self._lock:
            self._forget(key)
            again = key in self._wanted_again
            self._wanted_again.discard(key)
        log.info("model %s version %s leaves memory: another one needs the room", *key)
        if self._events is not None:
            self._events.evicted(*key)
        self._on_gone(*key)
        if again:
            self.begin(key)

    def _let_stay(self) -> None:
        """What was to leave and need not any more serves again."""
        with self._lock:
            stays = [*self._leaving]
            self._leaving.clear()
            self._wanted_again.clear()
        for key in stays:
            self._on_ready(*key)

    def _forget(self, key: Key) -> None:
        self._loads.pop(key, None)
        for held in (self._retry_at, self._asked_at, self._bytes, self._took, self._leaving):
            held.pop(key, None)

    def _no_room(self, key: Key, need: int) -> str:
        with self._lock:
            sizes = {one: size for one, size in self._bytes.items() if one != key}
        fixed = sorted(one for one in sizes if self._rules.is_fixed(one))
        budget = megabytes(self._budget or 0)
        text = f"model {key[0]} {key[1]} needs {megabytes(need)} of memory, the budget is {budget}"
        if not fixed:
            return text
        names = ", ".join(" ".join(one) for one in fixed)
        return f"{text}, of which {megabytes(sum(sizes[one] for one in fixed))} are of what is never evicted ({names})"


def megabytes(size: int) -> str:
    """Bytes for a person."""
    return f"{size / 1e6:,.1f} MB"
