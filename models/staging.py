"""Buffers between the host's memory and a device's, reused from batch to batch, and the seam to both memories."""

from __future__ import annotations

import itertools
import math
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from schemas.tensors import Array

# A buffer is never smaller: growing costs an allocation, and the page behind it is taken anyhow.
_LEAST: Final = 4096


class Memory(Protocol):
    """A device's memory: what a runner needs of CUDA, or of whatever stands in for it.

    `device_type` and `device_id` are ONNX Runtime's names for it. Sizes are bytes. Every call may raise an error whose
    text `models.runtime.typed` understands; copies are only complete after `wait`.
    """

    device_type: str
    device_id: int

    def open_stream(self) -> int:
        """A stream for copies, beside the one that computes."""

    def close_stream(self, stream: int) -> None:
        """Give a stream back."""

    def host(self, size: int) -> Array:
        """Page-locked memory of the host, uint8 [size]: from it and to it a device copies by itself."""

    def free_host(self, buffer: Array) -> None:
        """Give memory of the host back."""

    def device(self, size: int) -> int:
        """The address of `size` bytes on the device."""

    def free_device(self, address: int) -> None:
        """Give memory of the device back."""

    def upload(self, address: int, source: Array, stream: int) -> None:
        """Begin to copy uint8 [n] to the device."""

    def download(self, target: Array, address: int, stream: int) -> None:
        """Begin to copy uint8 [n] from the device."""

    def wait(self, stream: int) -> None:
        """Return once the stream's copies are done."""


class HostMemory:
    """The host's own memory in the place of a device's, so that whatever runs on a GPU runs on a CPU too."""

    device_type = "cpu"
    device_id = 0

    def __init__(self) -> None:
        self._streams = itertools.count(1)
        self._held: dict[int, Array] = {}

    def open_stream(self) -> int:
        """A number: copies are done when they are asked for."""
        return next(self._streams)

    def close_stream(self, stream: int) -> None:
        """Nothing is held."""

    def host(self, size: int) -> Array:
        """Ordinary memory, uint8 [size]."""
        return np.empty(size, np.uint8)

    def free_host(self, buffer: Array) -> None:
        """Freed with its last reference."""

    def device(self, size: int) -> int:
        """The address of ordinary memory."""
        buffer = np.empty(size, np.uint8)
        self._held[buffer.ctypes.data] = buffer
        return int(buffer.ctypes.data)

    def free_device(self, address: int) -> None:
        """Freed with its last reference, which this is."""
        del self._held[address]

    @property
    def held(self) -> int:
        """Bytes that stand for a device's and were not given back."""
        return sum(one.nbytes for one in self._held.values())

    def upload(self, address: int, source: Array, stream: int) -> None:
        """Copy at once."""
        del stream
        self._held[address][: len(source)] = source

    def download(self, target: Array, address: int, stream: int) -> None:
        """Copy at once."""
        del stream
        target[:] = self._held[address][: len(target)]

    def wait(self, stream: int) -> None:
        """Nothing is under way."""


@dataclass(slots=True)
class Area:
    """One tensor's place on the host and on the device, of `size` bytes."""

    size: int
    host: Array
    address: int


class Staging:
    """The areas of one batch under way, by tensor name; they grow to the largest batch seen and are then reused."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._areas: dict[str, Area] = {}
        self.allocations = 0

    def area(self, name: str, size: int) -> Area:
        """The area of a tensor, of `size` bytes or more. Its address stays until a larger one is asked for."""
        held = self._areas.get(name)
        if held is not None and held.size >= size:
            return held
        if held is not None:
            self._free(self._areas.pop(name))
        # Powers of two: sizes that creep up would mean an allocation for each of them.
        room = max(_LEAST, 1 << (size - 1).bit_length()) if size else _LEAST
        host = self._memory.host(room)
        try:
            address = self._memory.device(room)
        except BaseException:
            self._memory.free_host(host)
            raise
        self.allocations += 1
        self._areas[name] = Area(room, host, address)
        return self._areas[name]

    def close(self) -> None:
        """Give everything back."""
        while self._areas:
            self._free(self._areas.popitem()[1])

    def _free(self, area: Area) -> None:
        self._memory.free_device(area.address)
        self._memory.free_host(area.host)


def view(area: Area, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The host's side of an area as an array of this shape."""
    return area.host[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)


class Held:
    """What a runner has of a device. Outlives one that nobody closed, to be given back by the next."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._stagings: list[Staging] = []
        self._streams: list[int] = []

    def staging(self) -> Staging:
        """Areas of their own."""
        self._stagings.append(Staging(self._memory))
        return self._stagings[-1]

    def stream(self) -> int:
        """A stream of its own."""
        self._streams.append(self._memory.open_stream())
        return self._streams[-1]

    def close(self) -> None:
        """Give everything back."""
        while self._stagings:
            self._stagings.pop().close()
        while self._streams:
            self._memory.close_stream(self._streams.pop())


# Of runners that were dropped unclosed. Not given back where that is noticed: it may be while a graph is captured.
ABANDONED: Final[deque[Held]] = deque()
