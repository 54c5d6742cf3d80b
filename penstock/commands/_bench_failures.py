"""What can go wrong with a benchmark, each kind as the command's last line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from penstock import console


@contextmanager
def failing_in_one_line(broker: str) -> Iterator[None]:
    """Turn what a benchmark raises into the command's last line. `broker` is looked at first."""
    from models.errors import ModelError
    from penstock.bench.bed import BenchError
    from penstock.bench.workload import WorkloadError
    from penstock.stack import StackError
    from penstock.supervisor import ServiceError
    from producers.errors import BrokerUnavailableError

    host, _, port = broker.rpartition(":")
    if broker not in ("embedded", "kafka") and not (host and port.isdigit()):
        console.fail(f"broker {broker!r} is neither embedded, nor kafka, nor HOST:PORT")
    try:
        yield
    except (ModelError, WorkloadError) as error:
        console.fail(str(error))
    except (BenchError, BrokerUnavailableError, ServiceError, StackError) as error:
        console.fail(str(error), code=1)
