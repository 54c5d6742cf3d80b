"""The control topic in memory, as `producers.control.ControlTopic` and the workers have it, for tests without Kafka."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from producers.control import Swap
from producers.errors import ControlConflictError
from producers.publisher import key_of
from schemas.codec import Codec
from schemas.records import Control
from stream_workers.control import ControlState


class BrokenOffError(RuntimeError):
    """The process died before this write."""


class MemoryTopic:
    """Keeps the log as Kafka does: the last record of a key holds; a worker follows every one as it comes.

    `now`: microseconds; moves on by a second with each look at it. `writes_left`: how many writes there are until the
    process dies, None for no end. `worker` is a real `ControlState`; `refused` counts records that it did not take.
    """

    def __init__(self, start: int = 1_900_000_000_000_000) -> None:
        self.log: list[tuple[bytes, bytes | None]] = []
        self.clock = start
        self.writes_left: int | None = None
        self.refused = 0
        self._codec = Codec()
        self.worker = ControlState(self._codec)

    def now(self) -> int:
        self.clock += 1_000_000
        return self.clock

    def put(self, kind: str, name: str, body: Any, *, author: str = "", at: int | None = None) -> Control:
        now = self.now() if at is None else at
        entry = Control(kind, name, now, body if isinstance(body, str) else json.dumps(body), now, author)
        self._write(key_of(entry) or b"", self._codec.encode(entry))
        return entry

    def swap(self, kind: str, name: str, body: Any, *, expected: int | None, author: str = "") -> Control:
        held = self.entries().get((kind, name))
        if (None if held is None else held.revision) != expected:
            raise ControlConflictError(kind, name, held)
        return self.put(kind, name, body, author=author)

    def swap_all(self, swaps: Sequence[Swap], *, author: str = "") -> list[Control]:
        for one in swaps:
            held = self.entries().get((one.kind, one.name))
            if (None if held is None else held.revision) != one.expected:
                raise ControlConflictError(one.kind, one.name, held)
        return [self.put(one.kind, one.name, one.body, author=author) for one in swaps if one.body is not None]

    def remove(self, kind: str, name: str) -> None:
        self._write(f"{kind}/{name}".encode(), None)

    def entries(self) -> dict[tuple[str, str], Control]:
        kept = [self._codec.decode(Control, value) for value in dict(self.log).values() if value is not None]
        return {(one.kind, one.name): one for one in kept}

    def history(self) -> list[Control]:
        """Every entry ever written, in order."""
        return [self._codec.decode(Control, value) for _, value in self.log if value is not None]

    def restarted_worker(self) -> ControlState:
        """A worker that reads the compacted topic from its beginning."""
        state = ControlState(self._codec)
        # A dict keeps a key's first place, a compacted log its last.
        last = {key: at for at, (key, _) in enumerate(self.log)}
        for at, (key, value) in enumerate(self.log):
            if last[key] == at:
                state.apply(key, value)
        return state

    def _write(self, key: bytes, value: bytes | None) -> None:
        if self.writes_left is not None:
            if self.writes_left == 0:
                raise BrokenOffError
            self.writes_left -= 1
        self.log.append((key, value))
        if self.worker.apply(key, value) == "":
            self.refused += 1
