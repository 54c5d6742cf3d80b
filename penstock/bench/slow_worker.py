"""A scoring worker whose models wait like a slow device: 50 ms for one row, 60 ms for 32, the processor idle meanwhile.

For the benchmark's batching example only. On a machine of two cores a model that computed for 50 ms would take the
processors from Kafka and from the client that measures, and the example would be about that. Everything but the wait
is the worker's own: it is started by the same command with the same settings.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

import models.loading
from models.session import Session
from schemas.tensors import Array

ONE_ROW: Final = 0.050
ROWS_32: Final = 0.060


def seconds_for(rows: int) -> float:
    """What a batch takes: a straight line through the two points."""
    return ONE_ROW + (ROWS_32 - ONE_ROW) / 31 * (rows - 1)


class SlowSession(Session):
    """A session that answers when so much time has passed."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See `Session.run`."""
        end = time.perf_counter() + seconds_for(len(next(iter(inputs.values()))))
        outputs = super().run(inputs)
        time.sleep(max(0.0, end - time.perf_counter()))
        return outputs


def main() -> None:
    """The command line of Penstock with slow sessions."""
    from penstock.cli import main as penstock

    # Whatever loads a model opens it by this name.
    vars(models.loading)["Session"] = SlowSession
    penstock()


if __name__ == "__main__":
    main()
