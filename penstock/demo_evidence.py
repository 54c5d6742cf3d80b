"""What ClickHouse knows of a demo run, asked over HTTP of the process that holds it: the figures of the summary.

The statements are `analytics/queries/demo_*.sql`; a run's rows are those whose request id begins with its prefix.
"""

from __future__ import annotations

import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from time import monotonic
from typing import Any, Final

from models.routing import Experiment

# Ingest writes a block a second, so that so long a silence means that nothing more comes.
SILENCE_SECONDS: Final = 60.0
_ASK_AGAIN: Final = 0.25
_PLACEHOLDER: Final = re.compile(r"\{(\w+):(\w+)\}")


class EvidenceError(RuntimeError):
    """The warehouse does not answer, in one line."""


@dataclass(frozen=True, slots=True)
class Run:
    """What tells one run's rows from all others: `began` is in microseconds since the epoch."""

    name: str
    began: int
    model: str
    outcome: str

    @property
    def prefix(self) -> str:
        """What the run's request ids begin with."""
        return f"{self.name}/"


@dataclass(frozen=True, slots=True)
class Arrived:
    """Requests and outcomes of a run that are in ClickHouse."""

    requests: int
    outcomes: int


@dataclass(frozen=True, slots=True)
class VariantFindings:
    """One variant against what happened. `users` are tail numbers; `auc` is None without outcomes of both kinds."""

    variant: str
    version: str
    flights: int
    users: int
    with_outcome: int
    mean_score: float | None
    late_share: float | None
    auc: float | None
    log_loss: float | None


@dataclass(frozen=True, slots=True)
class Findings:
    """A run as ClickHouse has it; every number comes out of SQL. Latencies are from sent to scored."""

    requests: int
    scored: int
    lost: int
    duplicated: int
    misassigned: int
    errors: Mapping[str, int]
    examples: Mapping[str, str]
    outcomes: int
    without_prediction: int
    p50_ms: float
    p99_ms: float
    batches: int
    workers: int
    seconds: float
    rows_per_second: float
    variants: tuple[VariantFindings, ...]


class Evidence:
    """Asks `warehouse` (a URL) about a run; `headers` are sent with each question."""

    def __init__(self, warehouse: str, run: Run, headers: Mapping[str, str] | None = None) -> None:
        self._url = f"{warehouse}/sql"
        self._run: dict[str, int | str] = {
            "prefix": run.prefix,
            "began": run.began,
            "model": run.model,
            "outcome": run.outcome,
        }
        self._headers = dict(headers or {})
        # A proxy of the environment is not meant for the process next door.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def arrived(self) -> Arrived:
        """What is there now. Raises `EvidenceError`."""
        row = self._ask("demo_arrived")[0]
        return Arrived(row["requests"], row["outcomes"])

    def wait(
        self,
        requests: int,
        outcomes: int,
        on_arrived: Callable[[Arrived], None] = lambda _arrived: None,
        *,
        silence: float = SILENCE_SECONDS,
    ) -> bool:
        """Wait until so many are there; False when nothing more has come for `silence` seconds.

        Raises `EvidenceError` where the warehouse has not answered for so long.
        """
        pause = threading.Event()
        arrived, since = Arrived(0, 0), monotonic()
        while arrived.requests < requests or arrived.outcomes < outcomes:
            try:
                now = self.arrived()
            except EvidenceError:
                # It may have been ended and be on its way up again.
                if monotonic() - since > silence:
                    raise
                pause.wait(_ASK_AGAIN)
                continue
            if now != arrived:
                arrived, since = now, monotonic()
                on_arrived(arrived)
            elif monotonic() - since > silence:
                return False
            else:
                pause.wait(_ASK_AGAIN)
        return True

    def findings(self, sent: int, experiment: Experiment) -> Findings:
        """Everything about the run, of which `sent` requests were published. Raises `EvidenceError`."""
        first, second = experiment.variants
        whole = self._ask(
            "demo_requests",
            sent=sent,
            salt=experiment.salt,
            first=first.name,
            second=second.name,
            split=first.ranges[0][1],
        )[0]
        errors = self._ask("demo_errors")
        outcomes = self._ask("demo_outcomes")[0]
        variants = self._ask("demo_variants")
        return Findings(
            **whole,
            **outcomes,
            errors={row["code"]: row["requests"] for row in errors},
            examples={row["code"]: row["example"] for row in errors},
            variants=tuple(VariantFindings(**row) for row in variants),
        )

    def _ask(self, query: str, **values: int | str) -> list[dict[str, Any]]:
        text = files("analytics").joinpath("queries", f"{query}.sql").read_text("utf-8")
        body = fill(text, {**self._run, **values})
        request = urllib.request.Request(  # noqa: S310 - our own address
            f"{self._url}?format=json", body.encode(), {"Content-Type": "text/plain", **self._headers}
        )
        try:
            with self._opener.open(request, timeout=90) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                detail = error.read().decode(errors="replace")[:500]
            raise EvidenceError(f"the warehouse refuses {query}: {detail}") from None
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise EvidenceError(
                f"the warehouse does not answer at {self._url}: {getattr(error, 'reason', error)}"
            ) from None
        names = [column["name"] for column in answer["columns"]]
        return [dict(zip(names, row, strict=True)) for row in answer["rows"]]


def fill(text: str, values: Mapping[str, int | str]) -> str:
    """A statement with values in place of its `{name:Type}`: /sql takes statements without parameters."""

    def literal(match: re.Match[str]) -> str:
        value = values[match[1]]
        if match[2] == "Int64":
            return str(int(value))
        return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"

    return _PLACEHOLDER.sub(literal, text)
