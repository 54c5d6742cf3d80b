"""What a scoring worker needs to know before it begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from models.catalog import Holding
from models.device_options import DEFAULT_OPTIONS, DeviceOptions
from schemas.placement import Placement
from schemas.topics import Topics


@dataclass(frozen=True, slots=True)
class ScoringConfig:
    """What a worker needs to know. Seconds and rows, unless the name says otherwise.

    `name`: unique among live workers; keeping it over a restart ends the dead one's transaction at once.
    `consumer` and `producer` make a client's librdkafka properties: of a group and what the worker needs of it, and of
    what the worker needs of it; where an operator's properties say otherwise, they win. `client`: those of any client.
    `on_device_loss`: "leave" or "cpu"; `cpu_on_failure`: whether a version whose device fails may go on on the CPU.
    `topics`, `group`: of this worker's pool. `placement`: which pool each model is of, where control says nothing else;
    None: there is one pool. `holding`: what is kept in memory.
    `delivery`: "exactly-once" or "at-least-once", for everything but replies, which are at least once either way.
    """

    name: str
    consumer: Callable[..., Mapping[str, Any]]
    producer: Callable[..., Mapping[str, Any]]
    client: Callable[..., Mapping[str, Any]]
    topics: Topics
    group: str = "penstock-scoring"
    pool: str = ""
    placement: Placement | None = None
    holding: Holding = field(default_factory=Holding)
    device: str = "auto"
    device_options: DeviceOptions = DEFAULT_OPTIONS
    threads: int = 1
    delivery: str = "exactly-once"
    max_rows: int | None = None
    max_wait: float | None = None
    p99_target: float | None = None
    commit_interval: float = 0.1
    requests: bool = True
    bulk: bool = True
    bulk_share: float = 0.1
    on_device_loss: str = "leave"
    cpu_on_failure: bool = True
    last_answer_bytes: int = 64 * 1024 * 1024
    max_request_bytes: int = 1024 * 1024
    max_poll: int = 4096
    max_rows_in_flight: int = 65_536
    max_bytes_in_flight: int = 64 * 1024 * 1024
