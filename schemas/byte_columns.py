"""Byte strings by the thousand in one buffer, as Arrow's binary arrays have them: no Python object a string."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Octets = npt.NDArray[np.uint8]


class BytesColumn(Sequence[bytes]):
    """n byte strings; string i is `data[bounds[i]:bounds[i + 1]]`. Immutable; slices share the buffer.

    `data`: the buffer. `bounds` [n + 1]: ascending positions in it; the first need not be 0.
    """

    __slots__ = ("bounds", "data")

    def __init__(self, data: bytes, bounds: Ints) -> None:
        self.data = data
        self.bounds = bounds

    @classmethod
    def of(cls, strings: Iterable[bytes]) -> Self:
        """Of separate strings."""
        each = [*strings]
        bounds = np.fromiter(accumulate(map(len, each), initial=0), np.int64, len(each) + 1)
        return cls(b"".join(each), bounds)

    @classmethod
    def uniform(cls, data: bytes, count: int) -> Self:
        """`count` strings of one length that fill `data`."""
        return cls(data, np.arange(count + 1, dtype=np.int64) * (len(data) // max(count, 1)))

    @classmethod
    def cut(cls, data: bytes, starts: Ints, ends: Ints) -> Self:
        """Copies of `data[starts[i]:ends[i]]`, each within the buffer."""
        lengths = ends - starts
        if not len(starts):
            return cls(b"", np.zeros(1, np.int64))
        width = int(lengths[0])
        if width and (lengths == width).all():
            # Copied a string at a time, not a byte at a time.
            spans: npt.NDArray[np.void] = np.ndarray(
                (len(data) - width + 1,), np.dtype((np.void, width)), data, strides=(1,)
            )
            return cls.uniform(spans[starts].tobytes(), len(starts))
        bounds = np.zeros(len(starts) + 1, np.int64)
        np.cumsum(lengths, out=bounds[1:])
        places = np.arange(bounds[-1]) + np.repeat(starts - bounds[:-1], lengths)
        return cls(np.frombuffer(data, np.uint8)[places].tobytes(), bounds)

    @classmethod
    def joined(cls, columns: Sequence[BytesColumn]) -> BytesColumn:
        """The strings of all columns, one column after another."""
        if len(columns) == 1:
            return columns[0]
        steps = [np.diff(one.bounds) for one in columns]
        bounds = np.concatenate([np.zeros(1, np.int64), *steps]).cumsum()
        return cls(b"".join([one.content() for one in columns]), bounds)

    def content(self) -> bytes:
        """All strings joined."""
        begin, end = int(self.bounds[0]), int(self.bounds[-1])
        return self.data if begin == 0 and end == len(self.data) else self.data[begin:end]

    def lengths(self) -> Ints:
        """Bytes of each string [n]."""
        return np.diff(self.bounds)

    def matrix(self) -> Octets | None:
        """The strings as [n, width], where all are of one width; else None."""
        lengths = self.lengths()
        if not len(lengths) or (lengths != lengths[0]).any():
            return None
        return np.frombuffer(self.content(), np.uint8).reshape(len(lengths), int(lengths[0]))

    def take(self, where: Ints) -> BytesColumn:
        """The strings at these positions."""
        return BytesColumn.cut(self.data, self.bounds[:-1][where], self.bounds[1:][where])

    def is_text(self) -> bool:
        """Whether every string is UTF-8."""
        try:
            self.content().decode()
        except UnicodeDecodeError:
            return False
        # All of it is; a string of it is too, unless it begins in the middle of a character.
        starts = self.bounds[:-1][self.bounds[:-1] < self.bounds[1:]]
        return not (np.frombuffer(self.data, np.uint8)[starts] & 0xC0 == 0x80).any()

    def tolist(self) -> list[bytes]:
        """Each string as an object of its own."""
        data, ends = self.data, self.bounds.tolist()
        return [data[a:b] for a, b in pairwise(ends)]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.tolist())

    @overload
    def __getitem__(self, at: int) -> bytes: ...

    @overload
    def __getitem__(self, at: slice) -> BytesColumn: ...

    def __getitem__(self, at: int | slice) -> bytes | BytesColumn:
        if isinstance(at, int):
            place = range(len(self))[at]
            return self.data[int(self.bounds[place]) : int(self.bounds[place + 1])]
        begin, end, step = at.indices(len(self))
        if step != 1:
            return self.take(np.arange(begin, end, step))
        return BytesColumn(self.data, self.bounds[begin : max(begin, end) + 1])

    def __repr__(self) -> str:
        return f"BytesColumn({len(self)} strings, {int(self.bounds[-1] - self.bounds[0])} bytes)"


def as_column(strings: Any) -> BytesColumn:
    """Strings as a column, the same one where they are."""
    return strings if isinstance(strings, BytesColumn) else BytesColumn.of(strings)
