"""Whether a candidate's answers are Penstock's: the same requests, each once, outputs within rounding. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from schemas.tensors import Array

TOLERANCE: Final = 1e-5
Outputs = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply: whose, and the outputs; None where it is an error."""

    request_id: str
    outputs: Outputs | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of `requests`: not answered, answered again, answered differently; answers nobody asked for; how far apart."""

    requests: int
    missing: int
    twice: int
    wrong: int
    strays: int
    largest_difference: float

    @property
    def faults(self) -> int:
        """0 where every request was answered, rightly."""
        return self.missing + self.wrong + self.strays

    def to_json(self) -> dict[str, Any]:
        """By name."""
        return {name: getattr(self, name) for name in self.__slots__}


def compare(wanted: Mapping[str, Outputs], answers: Iterable[Answer]) -> Agreement:
    """Answers against what is wanted by request id. Outputs must have the same names and shapes."""
    seen: dict[str, int] = dict.fromkeys(wanted, 0)
    wrong = strays = 0
    largest = 0.0
    for answer in answers:
        if answer.request_id not in seen:
            strays += 1
            continue
        seen[answer.request_id] += 1
        found = difference(wanted[answer.request_id], answer.outputs)
        if found <= TOLERANCE:
            largest = max(largest, found)
        else:
            wrong += 1
    return Agreement(
        requests=len(wanted),
        missing=sum(1 for times in seen.values() if times == 0),
        twice=sum(1 for times in seen.values() if times > 1),
        wrong=wrong,
        strays=strays,
        largest_difference=largest,
    )


def difference(wanted: Outputs, found: Outputs | None) -> float:
    """The largest absolute difference; infinite where names or shapes differ, or something is not a number."""
    if found is None or set(found) != set(wanted):
        return float("inf")
    largest = 0.0
    for name, array in wanted.items():
        if found[name].shape != array.shape:
            return float("inf")
        apart = float(np.abs(found[name].astype(np.float64) - array.astype(np.float64)).max(initial=0.0))
        if not np.isfinite(apart):
            return float("inf")
        largest = max(largest, apart)
    return largest
