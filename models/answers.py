"""The last answer that each user got, for the time when nothing can answer anew: bounded in bytes and in age.

An answer is of the same model, version, experiment and variant, for the same user, with the same number of rows. It was
computed of what the user's request held **then**: a manifest that allows it says that what has changed since matters
less than having no answer. Users without a name have nothing in common, so nothing is kept for them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from schemas.tensors import Array

# What an entry takes besides its key and its numbers: tuple, arrays, hash table (measured with tracemalloc).
ENTRY_BYTES: Final = 550
ARRAY_BYTES: Final = 150

Scope = tuple[str, str, str, str]
"""Model, version, experiment (of a variant only) and variant."""


@dataclass(frozen=True, slots=True)
class _Kept:
    until: float
    rows: int
    size: int
    outputs: tuple[tuple[str, Array], ...]
    scores: Array


@dataclass(frozen=True, slots=True)
class LastAnswer:
    """Outputs [rows, ...] by name, and the score of each row."""

    outputs: dict[str, Array]
    scores: Array


class AnswerCache:
    """Safe from any thread. Seconds of any steady clock."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._kept: OrderedDict[tuple[Scope, bytes], _Kept] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        """About what it takes."""
        return self._bytes

    def put(
        self,
        now: float,
        max_age: float,
        scope: Scope,
        users: Sequence[bytes],
        rows_each: int,
        outputs: Mapping[str, Array],
        scores: Array,
    ) -> None:
        """Answers of n users, `rows_each` rows each; outputs are [n * rows_each, ...], scores [n * rows_each].

        Kept for `max_age` seconds.
        """
        named = list(outputs.items())
        with self._lock:
            for place, user in enumerate(users):
                if not user:
                    continue
                begin, end = place * rows_each, (place + 1) * rows_each
                # A view would keep the whole batch.
                own = tuple((name, array[begin:end].copy()) for name, array in named)
                size = ENTRY_BYTES + len(user) + 8 * rows_each + sum(ARRAY_BYTES + _size(array) for _, array in own)
                key = (scope, user)
                self._drop(key)
                if size <= self._most:
                    self._kept[key] = _Kept(now + max_age, rows_each, size, own, scores[begin:end].copy())
                    self._bytes += size
            while self._bytes > self._most:
                self._drop(next(iter(self._kept)))

    def get(self, now: float, scope: Scope, user: bytes, rows: int) -> LastAnswer | None:
        """This user's last answer, where it is not too old and has so many rows."""
        with self._lock:
            found = self._kept.get((scope, user)) if user else None
            if found is None:
                return None
            if now > found.until:
                self._drop((scope, user))
                return None
            return LastAnswer(dict(found.outputs), found.scores) if found.rows == rows else None

    def forget(self, model: str, version: str) -> None:
        """A version is retired."""
        with self._lock:
            for key in [key for key in self._kept if key[0][:2] == (model, version)]:
                self._drop(key)

    def _drop(self, key: tuple[Scope, bytes]) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._bytes -= found.size


def _size(array: Array) -> int:
    if array.dtype != np.dtype(object):
        return int(array.nbytes)
    return int(sum(50 + 4 * len(str(text)) for text in array.ravel()))
