"""How a GPU is to be used: what an operator may decide, in one frozen object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """Settings of a GPU; a CPU needs none of them.

    `memory_limit`: bytes that one model's arena may hold (weights and activations; libraries take more beside it),
    None: no limit. `graphs`: capture a CUDA graph for each size of batch a model is warmed up on. `runs`: batches under
    way at once, each with staging buffers of its own. `fp16` and `engine_cache` (a folder) are TensorRT's, and so are
    `rows`, the fewest and the most of a batch, for which one engine is then built; None: as batches come.
    """

    memory_limit: int | None = None
    graphs: bool = False
    runs: int = 2
    fp16: bool = False
    engine_cache: str = ".penstock/tensorrt"
    rows: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.runs < 1:
            raise ValueError(f"runs must be at least 1, got {self.runs}")
        if self.memory_limit is not None and self.memory_limit < 1:
            raise ValueError(f"memory_limit must be at least 1 byte, got {self.memory_limit}")


DEFAULT_OPTIONS: Final = DeviceOptions()
