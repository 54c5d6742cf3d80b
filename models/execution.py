"""How an open session is run: the seam between a model and its device, and the plain way, which is a CPU's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from models.signature import Signature
from schemas.tensors import BYTES, Array

# Of the inputs, in the signature's order.
Shapes = tuple[tuple[int, ...], ...]
# Writes a batch's inputs into buffers of the batch's shapes, by name.
Fill = Callable[[Mapping[str, Array]], None]


class Runner(Protocol):
    """Runs an open session. `run` may be called from several threads at once."""

    @property
    def stages(self) -> bool:
        """Whether inputs are copied into buffers anyway, so that `run_filled` spares a copy."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Arrays by input name to arrays by output name, which are the caller's. Raises what the session raises."""

    def run_filled(self, shapes: Mapping[str, tuple[int, ...]], fill: Fill) -> dict[str, Array]:
        """The same for inputs of these shapes that `fill` writes where they are needed."""

    def prepare(self, inputs: Mapping[str, Array]) -> None:
        """Make ready for more runs of these shapes."""

    def close(self) -> None:
        """Give everything back, after the runs that are under way."""


class PlainRunner:
    """ONNX Runtime's own call: on a CPU there is nothing to copy."""

    stages = False

    def __init__(self, session: Any, signature: Signature) -> None:
        self._session = session
        self._inputs = signature.inputs
        self._names = [one.name for one in signature.outputs]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See `Runner.run`."""
        names = self._names
        return dict(zip(names, self._session.run(names, inputs), strict=True))

    def run_filled(self, shapes: Mapping[str, tuple[int, ...]], fill: Fill) -> dict[str, Array]:
        """See `Runner.run_filled`."""
        inputs = {one.name: np.empty(shapes[one.name], one.dtype) for one in self._inputs}
        fill(inputs)
        return self.run(inputs)

    def prepare(self, inputs: Mapping[str, Array]) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Let go of the session."""
        self._session = None


def can_be_bound(signature: Signature) -> bool:
    """Whether every tensor can lie in a device's memory; text cannot."""
    return all(one.datatype != BYTES for one in (*signature.inputs, *signature.outputs))
