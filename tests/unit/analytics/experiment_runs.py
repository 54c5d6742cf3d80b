"""Runs for tests of experiments: looks at a world, metrics of every kind, and worlds made by chance."""

from __future__ import annotations

import random
from typing import Any

from experiment_world import Happened, Seen, World, at

from analytics.definitions import Definition, Plan
from analytics.experiment_state import advance
from analytics.experiment_store import ExperimentStore, UnitSums


def started(some: Definition, hours: float = 0) -> Plan:
    return Plan(some).start(at(hours))


def look(world: World, plan: Plan, hours: float) -> dict[tuple[str, str], UnitSums]:
    """Look at a time and return the sums by metric and arm."""
    advance(world.warehouse, plan, at(hours))
    return sums(world, plan, hours)


def sums(world: World, plan: Plan, hours: float) -> dict[tuple[str, str], UnitSums]:
    return {(one.metric, one.variant): one for one in ExperimentStore(world.warehouse).sums(plan, at(hours))}


def counted(found: dict[tuple[str, str], UnitSums], metric: str = "bought") -> list[tuple[int, float]]:
    return [(found[metric, arm].n, found[metric, arm].y) for arm in "ab"]


METRICS: list[dict[str, Any]] = [
    {"name": "bought", "kind": "proportion", "outcome": "bought", "window": "2h"},
    {"name": "spent", "kind": "mean", "outcome": "bought", "window": "3h", "covariate_window": "5h", "cap_value": 4},
    {
        "name": "rate",
        "kind": "ratio",
        "numerator": {"outcome": "bought"},
        "denominator": {"prediction": "rows"},
        "window": "2h",
        "covariate_window": "3h",
    },
    {
        "name": "calls",
        "kind": "ratio",
        "numerator": {"outcome": "late", "value": "correct"},
        "denominator": {"outcome": "late", "value": "one"},
        "window": "2h",
    },
    {"name": "slowest", "kind": "mean", "source": {"prediction": "latency_ms", "aggregate": "max"}, "window": "1h"},
    {"name": "mean-score", "kind": "quantile", "prediction": "score", "percentile": 50, "window": "1h"},
]
SUMS = ("n", "events", "y", "x", "c", "d", "yy", "xx", "cc", "dd", "yx", "yc", "yd", "xc", "xd", "cd")
SCORES = (0.1, 0.5, 0.7, float("nan"))


def random_world(rng: random.Random, world: World, rows: int = 160) -> tuple[list[Seen], list[Happened]]:
    users = [f"u{number}" for number in range(24)]
    arm = {user: rng.choice("ab") for user in users}
    seen = []
    for number in range(rows):
        user = rng.choice(users)
        # Some meet the other arm, and some predictions are of another experiment, or of none.
        variant = arm[user] if rng.random() < 0.98 else rng.choice("ab")
        experiment = "exp" if rng.random() < 0.9 else rng.choice(["", "other"])
        hours = rng.choice([-2, -0.5, *[rng.uniform(0, 12)] * 8])
        code = "OK" if rng.random() < 0.95 else "MODEL_ERROR"
        seen.append(
            Seen(user, hours, variant if experiment else "", f"r{number}", rng.choice(SCORES), experiment, code=code)
        )
    happened = []
    for number in range(rows):
        about = rng.choice(seen)
        hours = about.hours + rng.uniform(-3, 4)
        name = rng.choice(["bought", "late"])
        value = float(rng.choice([0, 1, 3]))
        experiment = rng.choice(["exp", "exp", "", "other"])
        happened.append(Happened(about.user, hours, value, f"o{number}", name, about.request, experiment))
    # The same outcome reported again, with a later word on it.
    happened += [
        Happened(one.user, one.hours, 2.0, one.id, one.name, one.request, one.experiment) for one in happened[:9]
    ]
    return seen, happened
