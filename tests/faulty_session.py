"""A device that fails when a test says so: sessions on a CPU that call themselves a GPU's. No product part."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from models.device_options import DEFAULT_OPTIONS, DeviceOptions
from models.errors import DeviceLostError, DeviceOutOfMemoryError, InferenceError
from models.session import Session
from models.signature import Signature
from schemas.tensors import Array

DEVICE = "cuda:0"


@dataclass
class Faults:
    """What is wrong. `memory_rows`: more rows than these find no memory; `broken`: files whose model raises always.

    `broken_on_cpu`: files whose model raises there too. `lost`: the device is. `runs`: rows of each run that was asked
    of it, failed ones too.
    """

    lost: bool = False
    memory_rows: int | None = None
    broken: Sequence[str] = ()
    broken_on_cpu: Sequence[str] = ()
    runs: list[int] = field(default_factory=list)


class FaultySession(Session):
    """A session of the CPU on a device that has `faults()`."""

    def __init__(self, real: Session, file: str, device: str, faults: Callable[[], Faults]) -> None:
        self._real = real
        self._file = file
        self._faults = faults
        self.stages = False
        self.device = device
        self.why = "a test says so"
        self.inputs, self.outputs = real.inputs, real.outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As the faults have it."""
        faults, rows = self._faults(), len(next(iter(inputs.values())))
        if self.device == "cpu":
            if self._file in faults.broken_on_cpu:
                raise InferenceError("the model raised on the CPU: a test says so")
            return self._real.run(inputs)
        faults.runs.append(rows)
        if faults.lost:
            raise DeviceLostError(f"{DEVICE} failed: a test says so")
        if faults.memory_rows is not None and rows > faults.memory_rows:
            raise DeviceOutOfMemoryError(f"{DEVICE} is out of memory for {rows} rows")
        if self._file in faults.broken:
            raise InferenceError("the model raised: a test says so")
        return self._real.run(inputs)

    @property
    def wants_buckets(self) -> bool:
        """No: `runs` are to be the rows that were asked for."""
        return False

    def prepare(self, inputs: Mapping[str, Array]) -> None:
        """There is nothing to capture."""

    def close(self) -> None:
        """Give back its memory."""
        self._real.close()


class FaultFile:
    """Faults that a test in another process writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at = -1
        self._faults = Faults()

    def write(self, **faults: object) -> None:
        """Say what is wrong from now on."""
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(faults))
        fresh.replace(self._path)

    def __call__(self) -> Faults:
        changed = os.stat(self._path).st_mtime_ns
        if changed != self._read_at:
            self._read_at = changed
            self._faults = Faults(**json.loads(self._path.read_text()))
        return self._faults


def opening(faults: Callable[[], Faults]) -> Callable[..., Session]:
    """In place of `Session.open`: whatever is not asked for on the CPU is on the faulty device."""
    real = Session.open

    def open_(
        path: str | Path,
        signature: Signature,
        device: str = "auto",
        threads: int = 1,
        options: DeviceOptions = DEFAULT_OPTIONS,
    ) -> Session:
        session = real(path, signature, "cpu", threads, options)
        return FaultySession(session, Path(path).name, "cpu" if device == "cpu" else DEVICE, faults)

    return open_
