"""Which answer belongs to which question: the client's table of pending requests, and its limit. No Kafka here."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

from producers.errors import ScoringError

REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of requests and replies since the client was made. `late` + `duplicate` replies were dropped.

    `foreign` replies were for other clients on the same partition, `unreadable` ones could not be decoded.
    """

    sent: int = 0
    answered: int = 0
    expired: int = 0
    late: int = 0
    duplicate: int = 0
    foreign: int = 0
    unreadable: int = 0


@dataclass(frozen=True, slots=True)
class Envelope:
    """An answer as it came. Whoever waits for it opens it: many come at once, and each would wait for all."""

    request_id: str
    value: bytes


@dataclass(slots=True)
class Pending:
    """A request without an answer yet. `delivered` says whether Kafka has it."""

    request_id: str
    model: str
    future: Future[Envelope] = field(default_factory=Future)
    delivered: bool = False


class Correlation:
    """Requests by id until answered, expired or failed; each ends exactly once. Thread-safe.

    `client_id` starts every id, so that a reply for somebody else is known by its bytes, without decoding it.
    """

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        self.mark = client_id.encode()
        self._numbers = count()
        self._lock = threading.Lock()
        self._pending: dict[str, Pending] = {}
        self._expired: OrderedDict[str, None] = OrderedDict()
        self._closed: ScoringError | None = None
        self._tally = dict.fromkeys(Counts.__dataclass_fields__, 0)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._pending

    def __len__(self) -> int:
        return len(self._pending)

    def register(self, model: str) -> Pending:
        """A new request's entry. Raises what the table was closed with."""
        request_id = f"{self.client_id}-{next(self._numbers)}"
        one = Pending(request_id, model)
        with self._lock:
            self.raise_if_closed(model)
            self._pending[request_id] = one
            self._tally["sent"] += 1
        return one

    def raise_if_closed(self, model: str = "") -> None:
        """Raise what the table was closed with, if it was."""
        if self._closed is not None:
            raise type(self._closed)(self._closed.message, model=model)

    def delivered(self, request_id: str) -> None:
        """Kafka has the request."""
        one = self._pending.get(request_id)
        if one is not None:
            one.delivered = True

    def is_foreign(self, value: bytes) -> bool:
        """Whether a raw reply is for another client. Counts it."""
        if self.mark in value:
            return False
        with self._lock:
            self._tally["foreign"] += 1
        return True

    def unreadable(self) -> None:
        """Count a reply that names this client and cannot be decoded."""
        with self._lock:
            self._tally["unreadable"] += 1

    def answer(self, reply: Envelope) -> bool:
        """Hand an answer to whoever waits for it. False, and counted, where nobody does: late or a second one."""
        with self._lock:
            one = self._pending.pop(reply.request_id, None)
            if one is None:
                late = reply.request_id in self._expired
                if late:
                    del self._expired[reply.request_id]
                self._tally["late" if late else "duplicate"] += 1
                return False
            self._tally["answered"] += 1
        _settle(one.future, reply)
        return True

    def fail(self, request_id: str, error: ScoringError) -> None:
        """End a request with an error; nothing where it has ended."""
        with self._lock:
            one = self._pending.pop(request_id, None)
            if one is None:
                return
            self._remember(request_id)
        _settle(one.future, error)

    def expire(self, request_id: str) -> bool:
        """Forget a request nobody waits for any more; an answer to it will count as late. False where it has ended."""
        with self._lock:
            if self._pending.pop(request_id, None) is None:
                return False
            self._remember(request_id)
            self._tally["expired"] += 1
        return True

    def close(self, error: ScoringError) -> int:
        """Fail everything pending and all that is registered later with `error`'s type; returns how many there were."""
        with self._lock:
            if self._closed is None:
                self._closed = error
            left = list(self._pending.values())
            self._pending.clear()
        for one in left:
            _settle(one.future, type(error)(error.message, model=one.model, request_id=one.request_id))
        return len(left)

    def counts(self) -> Counts:
        """The figures so far."""
        with self._lock:
            return Counts(**self._tally)

    def _remember(self, request_id: str) -> None:
        self._expired[request_id] = None
        if len(self._expired) > REMEMBERED:
            self._expired.popitem(last=False)


class Slots:
    """At most `limit` holders at once; the others wait in line. Thread-safe, and awaitable from any event loop."""

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"a limit of {limit} would let nothing through")
        self.limit = limit
        self._free = limit
        self._line: deque[Future[None]] = deque()
        self._lock = threading.Lock()

    def acquire(self) -> Future[None] | None:
        """None: the slot is yours. Else a future that is done when it is; give it up by `abandon`."""
        with self._lock:
            if self._free:
                self._free -= 1
                return None
            turn: Future[None] = Future()
            self._line.append(turn)
            return turn

    def abandon(self, turn: Future[None]) -> None:
        """Stop waiting. A slot that came meanwhile goes to the next in line."""
        if not turn.cancel():
            self.release()

    def release(self) -> None:
        """Hand a slot back."""
        with self._lock:
            while self._line:
                turn = self._line.popleft()
                if turn.set_running_or_notify_cancel():
                    break
            else:
                self._free += 1
                return
        turn.set_result(None)


def _settle(future: Future[Envelope], outcome: Envelope | ScoringError) -> None:
    # Whoever cancels a future has nobody left to be told.
    with suppress(InvalidStateError):
        if isinstance(outcome, ScoringError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
