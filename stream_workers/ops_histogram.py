"""A Prometheus histogram that takes a whole batch of values at once, since a call a row costs more than scoring it."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector

Values = npt.NDArray[Any]
SECONDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
ROWS: Final = tuple(float(1 << power) for power in range(15))


class _Cell:
    __slots__ = ("counts", "total")

    def __init__(self, bins: int) -> None:
        self.counts = np.zeros(bins, np.int64)
        self.total = 0.0


class BatchHistogram(Collector):
    """Counts values by upper bound, for each combination of label values; safe to use from several threads.

    Negative values count as 0 (two machines' clocks differ, and a sum must not fall); NaN and infinities do not count.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        *,
        bounds: Sequence[float] = SECONDS,
        registry: CollectorRegistry | None = None,
    ) -> None:
        """`bounds`: rising, finite upper bounds, inclusive, in the unit that `name` ends with. Raises ValueError."""
        self._bounds = np.asarray(bounds, np.float64)
        if not len(bounds) or not np.isfinite(self._bounds).all() or (np.diff(self._bounds) <= 0).any():
            raise ValueError(f"histogram {name}: bounds must be finite and rise, got {list(bounds)}")
        self._ends = self._bounds.tolist()
        self._name = name
        self._documentation = documentation
        self._labels = tuple(labels)
        self._texts = [*map(str, self._bounds.tolist()), "+Inf"]
        self._lock = threading.Lock()
        self._cells: dict[tuple[str, ...], _Cell] = {}
        if not self._labels:
            self._cells[()] = _Cell(len(self._texts))
        if registry is not None:
            registry.register(self)

    def observe(self, value: float, labels: tuple[str, ...] = (), times: int = 1) -> None:
        """Count one value, or the same value several times."""
        value = max(float(value), 0.0)
        if not isfinite(value):
            return
        at = bisect_left(self._ends, value)
        with self._lock:
            cell = self._cell(labels)
            cell.counts[at] += times
            cell.total += value * times

    def observe_many(self, values: Values, labels: tuple[str, ...] = ()) -> None:
        """Count every value of an array of any shape. Raises ValueError where `labels` are too few or too many."""
        array = np.asarray(values, np.float64).ravel()
        if array.size == 1:
            self.observe(array.item(), labels)
            return
        total = float(np.maximum(array, 0.0).sum())
        if not np.isfinite(total):
            array = array[np.isfinite(array)]
            total = float(np.maximum(array, 0.0).sum())
        counts = np.bincount(self._bounds.searchsorted(array), minlength=len(self._texts))
        with self._lock:
            cell = self._cell(labels)
            cell.counts += counts
            cell.total += total

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """The metric without samples, so that a registry sees a second one of the same name."""
        yield HistogramMetricFamily(self._name, self._documentation, labels=self._labels)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The metric as it stands, buckets cumulative."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        with self._lock:
            cells = [(labels, cell.counts.cumsum().tolist(), cell.total) for labels, cell in self._cells.items()]
        for labels, counts, total in cells:
            family.add_metric(labels, list(zip(self._texts, counts, strict=True)), total)
        yield family

    def _cell(self, labels: tuple[str, ...]) -> _Cell:
        cell = self._cells.get(labels)
        if cell is None:
            if len(labels) != len(self._labels):
                raise ValueError(f"histogram {self._name} takes labels {self._labels}, got {labels}")
            cell = self._cells[labels] = _Cell(len(self._texts))
        return cell
