"""What the control topic assigned to whom, as its history in ClickHouse tells it.

An entry of kind `experiment` is written by `models.routing.Experiment.to_json`; its form is published, and read here
without that module, which analytics does not import.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from analytics.definitions import BUCKETS, Definition, DefinitionError, Range
from analytics.warehouse import Warehouse


@dataclass(frozen=True, slots=True)
class Assignment:
    """The salt, and the buckets that had a variant at one moment, by variant and all together."""

    salt: str
    buckets: dict[str, int]
    ranges: list[Range]


def assignment_at(warehouse: Warehouse, definition: Definition, at: datetime) -> Assignment:
    """The assignment in force at `at`, or the first one after it: an experiment is published as it is started.

    Without a history it is the definition's: its shares in buckets, rounded down, and everybody was in from the start.
    Raises `DefinitionError` where the history holds what is no experiment.
    """
    rows = warehouse.query(
        """
        SELECT body FROM control_history
        WHERE kind = 'experiment' AND name = {name:String} AND NOT deleted
        ORDER BY changed_at > {at:DateTime64(6)}, abs(dateDiff('microsecond', changed_at, {at:DateTime64(6)})), revision
        LIMIT 1
        """,
        {"name": definition.name, "at": at},
    ).rows
    if not rows:
        buckets = {arm.name: int(arm.share * BUCKETS + 1e-6) for arm in definition.variants}
        return Assignment(definition.salt or definition.name, buckets, [(0, BUCKETS)])
    try:
        body = json.loads(rows[0][0])
        owned = {one["name"]: [(lo, hi) for lo, hi in one["ranges"]] for one in body["variants"]}
        salt = str(body["salt"])
    except (ValueError, KeyError, TypeError) as error:
        raise DefinitionError(
            f"experiment {definition.name!r}: control_history holds a body that is no experiment ({error!r})"
        ) from None
    return Assignment(
        salt,
        {name: sum(hi - lo for lo, hi in spans) for name, spans in owned.items()},
        sorted(span for spans in owned.values() for span in spans),
    )
