"""Pools of workers in the settings: which models each takes, on which topics, and what its workers keep in memory."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from penstock.settings_base import Section

_UNITS: Final = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "KI": 1024, "MI": 1024**2, "GI": 1024**3}
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) *([KMG]I?|) *B?", re.IGNORECASE)


def _bytes(value: Any) -> Any:
    """ "2GiB", "500 MB" or a number of bytes as that number."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"expected a number of bytes, such as 2000000000, 2GB or 1.5GiB, got {value[:40]!r}")
    return int(float(match[1]) * _UNITS[match[2].upper()])


Bytes = Annotated[int, BeforeValidator(_bytes), Field(ge=1)]


class PoolSettings(Section):
    """A pool of workers with topics of its own. What it does not say, `[models]` says."""

    models: tuple[str, ...] = Field(min_length=1)
    """The models it takes; `*` and `?` stand for anything."""
    topic: str = ""
    """The topic of its requests, after `kafka.topic_prefix`; empty: scoring.NAME.requests."""
    bulk_topic: str = ""
    """The topic of its bulk batches, likewise; empty: scoring.NAME.bulk."""
    partitions: int | None = Field(default=None, ge=1, le=10_000)
    """Partitions of its topics; not set: `kafka.partitions`, or as many as workers where those are more."""
    workers: int = Field(default=1, ge=0, le=256)
    """How many workers `penstock up` starts for it."""
    spares: int = Field(default=0, ge=0, le=256)
    """How many more: loaded and warm, and without a partition where there are as many partitions as workers."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """What its inference runs on; not set: `models.device`."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of one inference on a CPU; not set: `models.threads`."""
    memory: Bytes | None = None
    """What its versions may take in each worker; not set: `models.memory`."""
    preload: bool | None = None
    """Whether they are loaded before anybody asks; not set: `models.preload`."""
    pinned: tuple[str, ...] = ()
    """Those of its models that are loaded in any case and never evicted."""
