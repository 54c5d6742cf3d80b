"""What the settings say of pools, as each process takes it: placement, topics, groups, and the settings of a worker.

A pool NAME has the consumer groups `<worker.group>.NAME` and `<worker.group>.NAME-bulk`, and transactional ids that
begin with the former. Names of pools hold neither dots nor hyphens, so that no two pools come to share one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.catalog import Holding
from schemas.placement import DEFAULT, Placement, PlacementError, Pool
from schemas.topics import Topics, TopicSpec, topic_specs, work_specs

if TYPE_CHECKING:
    from penstock.settings import Settings


def place_of(settings: Settings, pool: str) -> Pool:
    """A pool of the settings."""
    from schemas.placement import Place

    own = settings.pools[pool]
    return Pool(Place.of_pool(pool, settings.kafka.topic_prefix, own.topic, own.bulk_topic), own.models)


def placement(settings: Settings) -> Placement:
    """Which pool each model is of, where control says nothing else."""
    return Placement.create(settings.kafka.topics, [place_of(settings, name) for name in settings.pools])


def check_pool(settings: Settings, pool: str) -> str:
    """The pool's name, "" for the default pool. Raises `PlacementError` naming those there are."""
    if pool and pool != DEFAULT and pool not in settings.pools:
        there = ", ".join((DEFAULT, *settings.pools))
        raise PlacementError(f"there is no pool {pool!r} in the settings; there are {there}")
    return "" if pool == DEFAULT else pool


def pool_topics(settings: Settings, pool: str) -> Topics:
    """The topics that a worker of a pool reads and writes; "" is the default pool."""
    if not pool:
        return settings.kafka.topics
    place = place_of(settings, pool).place
    return settings.kafka.topics.of_pool(place.requests, place.bulk)


def pool_group(settings: Settings, pool: str) -> str:
    """The consumer group of its requests; that of its bulk batches has `-bulk` behind it."""
    return f"{settings.worker.group}.{pool}" if pool else settings.worker.group


def pool_specs(settings: Settings) -> tuple[TopicSpec, ...]:
    """Every topic there has to be, those of the pools last."""
    kafka = settings.kafka
    specs = topic_specs(kafka.topics, kafka.partitions)
    for name, own in settings.pools.items():
        place = place_of(settings, name).place
        # A worker without a partition would have nothing to do.
        specs += work_specs(place.requests, place.bulk, own.partitions or max(kafka.partitions, own.workers))
    return specs


def holding(settings: Settings, pool: str) -> Holding:
    """What a worker of a pool keeps in memory."""
    models = settings.models
    if not pool:
        return Holding(models.memory, models.preload, models.pinned)
    own = settings.pools[pool]
    return Holding(
        models.memory if own.memory is None else own.memory,
        models.preload if own.preload is None else own.preload,
        own.pinned,
    )


def pool_groups(settings: Settings) -> list[tuple[str, str]]:
    """Each scoring group and the topic it reads, the default pool's first."""
    found = []
    for pool in ("", *settings.pools):
        topics, group = pool_topics(settings, pool), pool_group(settings, pool)
        found += [(group, topics.requests), (f"{group}-bulk", topics.bulk)]
    return found
