"""GPUs and the memory their makers publish, and how much of it a model may use.

Sizes are the data sheets' figures, read as decimal gigabytes (NVIDIA's product data sheets of V100, T4, A10, A30, A100,
L4, L40S, H100, H200 and DGX B200, and of the RTX 4090; AMD's of the MI300X). That is the cautious reading: a driver
reports up to 7% more bytes of an HBM card, and about as many of a GDDR card with error correction on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from models.errors import PlanError

GB: Final = 1_000_000_000
# Left to the runtime: context, kernels' workspaces, fragments. vLLM plans with the same share (gpu_memory_utilization).
USABLE: Final = 0.9


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU and its published memory in decimal gigabytes."""

    name: str
    gigabytes: float

    def usable(self, share: float = USABLE) -> int:
        """Bytes that weights, activations and caches may take."""
        return int(self.gigabytes * GB * share)


CARDS: Final[tuple[Card, ...]] = (
    Card("T4", 16),
    Card("V100-16GB", 16),
    Card("A10", 24),
    Card("A30", 24),
    Card("L4", 24),
    Card("RTX-4090", 24),
    Card("V100-32GB", 32),
    Card("A100-40GB", 40),
    Card("L40S", 48),
    Card("A100-80GB", 80),
    Card("H100-80GB", 80),
    Card("H100-NVL", 94),
    Card("H200", 141),
    Card("B200", 180),
    Card("MI300X", 192),
)


def cards(names: Sequence[str]) -> list[Card]:
    """Cards by name, whatever the case, or `NAME=GIGABYTES` for one that is not listed; all of them for no names."""
    if not names:
        return list(CARDS)
    by_name = {one.name.lower(): one for one in CARDS}
    found = []
    for name in names:
        own, equals, size = name.partition("=")
        if equals:
            found.append(Card(own, _gigabytes(name, size)))
        elif name.lower() in by_name:
            found.append(by_name[name.lower()])
        else:
            raise PlanError(
                f"card: no {name!r} is listed; there are {', '.join(one.name for one in CARDS)}, or NAME=GIGABYTES"
            )
    return found


def _gigabytes(name: str, text: str) -> float:
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not 0 < size < 1e6:
        raise PlanError(f"card: expected NAME=GIGABYTES, such as H100=80, got {name!r}")
    return size
