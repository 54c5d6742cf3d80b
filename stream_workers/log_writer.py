"""Writes fates into the prediction log and the summaries: large ones at once, small ones of a commit together.

A record costs the worker, the broker and all who read it the same for one row as for a hundred, and at a low rate a
micro-batch holds a row or two. Nobody sees either before the commit, so nothing is later for waiting until then.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from schemas.codec import Codec
from stream_workers.fates import Fate
from stream_workers.ledger import Epoch, Output
from stream_workers.prediction_log import encoded, log_record
from stream_workers.summary_figures import summary_of

# Rows, and bytes, from which on a record is worth its price, and more would only be held in memory.
ENOUGH_ROWS: Final = 2048
ENOUGH_BYTES: Final = 1024 * 1024
# A fate that waits takes kilobytes, several times what it will in the log; and a commit may wait for Kafka for minutes.
ENOUGH_FATES: Final = 256
MOST_DRAFTS: Final = 32


class LogWriter:
    """Safe from any thread."""

    def __init__(self, codec: Codec, predictions: str, summaries: str, worker: str) -> None:
        """The topics' names, and the worker's."""
        self._codec = codec
        self._predictions = predictions
        self._summaries = summaries
        self._worker = worker
        self._lock = threading.Lock()

    def written(self, fates: Sequence[Fate]) -> list[Output]:
        """Records of fates of one kind."""
        # A worker keeps to one partition of the log: few large records in a row make large blocks in ClickHouse.
        key = self._worker.encode()
        log = encoded(self._codec, log_record(fates, self._worker))
        summary = summary_of(fates, self._worker)
        return [
            *(Output(self._predictions, value, key) for value in log),
            Output(self._summaries, self._codec.encode(summary), summary.model.encode()),
        ]

    def put(self, epoch: Epoch, fate: Fate) -> list[Output]:
        """Draft what became of some of the epoch's requests, before they are finished; returns outputs that are due."""
        if epoch.abandoned:
            return []
        rows, size = fate.rows, fate.size
        if rows >= ENOUGH_ROWS or size >= ENOUGH_BYTES:
            return self.written([fate])
        kind = fate.kind()
        with self._lock:
            # Another thread may forget the epoch meanwhile, and takes them away.
            drafts = epoch.drafts
            draft = cast("_Draft", drafts.setdefault(kind, _Draft(self)))
            draft.fates.append(fate)
            draft.rows += rows
            draft.size += size
            if draft.rows >= ENOUGH_ROWS or draft.size >= ENOUGH_BYTES or len(draft.fates) >= ENOUGH_FATES:
                due = kind
            elif len(drafts) > MOST_DRAFTS:
                due = next(iter(drafts))
            else:
                return []
            ended = drafts.pop(due)
        return [*ended.outputs()]


@dataclass(slots=True, eq=False)
class _Draft:
    """Fates of one kind."""

    writer: LogWriter
    fates: list[Fate] = field(default_factory=list)
    rows: int = 0
    size: int = 0

    def outputs(self) -> list[Output]:
        """See `Draft`."""
        return self.writer.written(self.fates)
