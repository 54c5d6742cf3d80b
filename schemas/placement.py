"""Which pool of workers a model belongs to, and so which topics its work goes to. Pure.

A pool takes the models that it names, `*` and `?` standing for anything; the default pool takes all others. An entry
`pool/<model>` on the control topic moves one model, and wins over what the pools name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Final

from schemas.topics import Topics

DEFAULT: Final = "default"
KIND: Final = "pool"
# A hyphen would let the groups and transactional ids of two pools be the same.
_POOL: Final = re.compile(r"[a-z0-9][a-z0-9_]{0,59}")
_PATTERN: Final = re.compile(r"[A-Za-z0-9._*?-]{1,100}")
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")


class PlacementError(ValueError):
    """Pools that contradict each other, or an entry that cannot be read; one line."""


@dataclass(frozen=True, slots=True)
class Place:
    """A pool, and the topics of its requests and bulk batches."""

    pool: str
    requests: str
    bulk: str

    @classmethod
    def default(cls, topics: Topics) -> Place:
        """That of every model that no pool names."""
        return cls(DEFAULT, topics.requests, topics.bulk)

    @classmethod
    def of_pool(cls, pool: str, prefix: str = "", requests: str = "", bulk: str = "") -> Place:
        """That of a pool, whose topics are named after it unless they are given. Raises `PlacementError`."""
        if not _POOL.fullmatch(pool) or pool == DEFAULT:
            raise PlacementError(
                f"{pool!r} is no name for a pool: lower-case letters, digits and _ (not first), and not {DEFAULT!r}"
            )
        return cls(pool, prefix + (requests or f"scoring.{pool}.requests"), prefix + (bulk or f"scoring.{pool}.bulk"))

    @classmethod
    def from_json(cls, text: str) -> Place:
        """From the body of an entry. Raises `PlacementError`."""
        try:
            body: Any = json.loads(text)
        except ValueError as error:
            raise PlacementError(f"its body is no JSON: {error}") from None
        keys = ("pool", "topic", "bulk_topic")
        if not isinstance(body, dict) or not all(isinstance(body.get(key), str) for key in keys):
            raise PlacementError(f"its body must be an object with {', '.join(keys)}, all of them text")
        for key in keys[1:]:
            if not _TOPIC.fullmatch(body[key]) or body[key] in (".", ".."):
                raise PlacementError(f"{key}: {body[key][:60]!r} is no name of a topic")
        return cls(*(body[key] for key in keys))

    def to_json(self) -> str:
        """What `from_json` reads."""
        return json.dumps({"pool": self.pool, "topic": self.requests, "bulk_topic": self.bulk})


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool and the models it names."""

    place: Place
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the work of each model goes. `moved`: what control says, by model."""

    default: Place
    pools: tuple[Pool, ...] = ()
    moved: Mapping[str, Place] = field(default_factory=dict)

    @classmethod
    def create(cls, topics: Topics, pools: Iterable[Pool] = ()) -> Placement:
        """Raises `PlacementError` where two pools want the same model or topic, or a topic that has another use."""
        found = tuple(pools)
        taken = dict.fromkeys(topics.names(), "Penstock itself")
        owners: dict[str, str] = {}
        for pool in found:
            name = pool.place.pool
            for topic in (pool.place.requests, pool.place.bulk):
                if not _TOPIC.fullmatch(topic):
                    raise PlacementError(f"pool {name}: {topic[:60]!r} is no name of a topic")
                if topic in taken:
                    raise PlacementError(f"pool {name}: topic {topic} is used by {taken[topic]}")
                taken[topic] = f"pool {name}"
            for model in pool.models:
                if not _PATTERN.fullmatch(model):
                    raise PlacementError(f"pool {name}: {model[:60]!r} is no name of models")
                if model in owners:
                    raise PlacementError(f"pool {name}: {model} is in pool {owners[model]} already")
                owners[model] = name
        return cls(Place.default(topics), found)

    def of(self, model: str) -> Place:
        """Where this model's work goes: as control says, as a pool names it, or fits it most closely, or the default.

        Of patterns that fit, the one with the most letters counts, and of those the first by its name.
        """
        if model in self.moved:
            return self.moved[model]
        best: tuple[int, str] | None = None
        place = self.default
        for pool in self.pools:
            for pattern in pool.models:
                if fnmatchcase(model, pattern):
                    letters = sum(one not in "*?" for one in pattern)
                    # The name itself has as many letters as it gets, and none of a pattern's wildcards.
                    rank = (-letters - (pattern == model), pattern)
                    if best is None or rank < best:
                        best, place = rank, pool.place
        return place

    def with_moved(self, moved: Mapping[str, Place]) -> Placement:
        """The same pools under what control says now."""
        return replace(self, moved=dict(moved))
