"""Looks up what a rule judges: asks the warehouse, or reads a figure of the process, and makes samples of it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from analytics.alert_catalogue import CATALOGUE, Metric
from analytics.alert_rules import RESERVED, Rule
from analytics.alert_state import AlertSampleError, Sample
from analytics.readonly import ReadOnlySql
from analytics.warehouse import Warehouse

# A gauge of this process by its name, summed by the labels named: each combination of their values, and the sum.
Figures = Callable[[str, tuple[str, ...]], list[tuple[dict[str, str], float]]]
_TEXT: Final = re.compile(r"(?:LowCardinality\()?(?:Nullable\()?(?:String|FixedString\(\d+\)|Enum\d*\(.*\))\)*")
_NUMBER: Final = re.compile(r"(?:LowCardinality\()?(?:Nullable\()?(?:U?Int\d+|Float\d+|BFloat16|Decimal.*|Bool)\)*")


class Sampler:
    """Finds the samples of rules. `readonly` answers questions that rules bring themselves: it must be restricted."""

    def __init__(self, warehouse: Warehouse, readonly: ReadOnlySql, figures: Figures) -> None:
        self._warehouse = warehouse
        self._readonly = readonly
        self._figures = figures

    def samples(self, rule: Rule, now: datetime) -> list[Sample]:
        """What the rule looks at now. Raises `AlertSampleError` for an answer that is none, `WarehouseError`."""
        if rule.sql:
            answer = self._readonly.json(rule.sql)
            columns = [(str(one["name"]), str(one["type"])) for one in answer["columns"]]
            return samples_of(columns, answer["rows"])
        metric = CATALOGUE[rule.metric]
        if metric.series:
            return [Sample(labels, value) for labels, value in self._figures(metric.series, metric.labels)]
        parameters = {"now": round(now.timestamp() * 1e6), "window": int(rule.window.total_seconds())}
        rows = self._warehouse.query(metric.sql, parameters).rows
        return [_of_metric(metric, row) for row in rows]


def _of_metric(metric: Metric, row: Sequence[Any]) -> Sample:
    """A row of a question of the catalogue: labels, value, figures, in this order."""
    labels = dict(zip(metric.labels, (str(one) for one in row), strict=False))
    value, *others = row[len(metric.labels) :]
    figures = dict(zip(metric.figures, others, strict=True))
    n = figures.pop("n", None)
    return Sample(
        labels, float(value), None if n is None else int(n), {name: float(one) for name, one in figures.items()}
    )


def samples_of(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]]) -> list[Sample]:
    """The samples in the answer to a rule's own question. `columns`: names and ClickHouse types.

    Text columns are labels, `value` is compared (null: no sample), `n` is what it was computed from, other numbers can
    stand in the summary. Raises `AlertSampleError`.
    """
    names = [name for name, _ in columns]
    kinds: Mapping[str, str] = dict(columns)
    if "value" not in kinds:
        raise AlertSampleError(f"its question has no column `value`, only {', '.join(names)}: name one so by AS value")
    for name, kind in columns:
        if _TEXT.fullmatch(kind) and name != "value":
            if name in RESERVED:
                raise AlertSampleError(f"its question's column {name} would be a label of a reserved name")
        elif not _NUMBER.fullmatch(kind):
            expected = "a number" if name == "value" else "text (a label) or a number"
            raise AlertSampleError(f"its question's column {name} is {kind}, expected {expected}")
    labels = [name for name, kind in columns if _TEXT.fullmatch(kind)]
    found = []
    for row in rows:
        cells = dict(zip(names, row, strict=True))
        if cells["value"] is None:
            continue
        numbers = {
            name: math.nan if cells[name] is None else float(cells[name])
            for name in names
            if name not in labels and name not in ("value", "n")
        }
        n = cells.get("n") if "n" not in labels else None
        found.append(
            Sample(
                {name: cells[name] or "" for name in labels},
                float(cells["value"]),
                None if n is None else int(n),
                numbers,
            )
        )
    return found
