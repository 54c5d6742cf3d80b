"""Starts real Penstock processes around one Apache Kafka, kills them, and lets a supervisor start them again."""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from penstock.brokers import ApacheKafka, free_port
from penstock.settings import (
    ClickHouseSettings,
    HttpSettings,
    IngestSettings,
    KafkaSettings,
    LogSettings,
    ModelSettings,
    Settings,
    WorkerSettings,
)
from penstock.supervisor import BackOff, Ended, Program, Supervisor
from producers.publisher import create_topics
from schemas.topics import Topics

PARTITIONS = 4
SESSION_MS = 6000
ROOT = Path(__file__).parent.parent.parent
FRONT = ROOT / "tests" / "clickhouse_front.py"
NINE = f"was ended by signal {int(signal.SIGKILL)}"


class Member:
    """A process under a supervisor of its own, so that it can be killed, come back, and leave."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.ends: list[str] = []
        # Half a second, as of the local stack, but never growing: these processes are killed on purpose.
        self._supervisor = Supervisor(self._ended, back_off=BackOff(first=0.5, cap=0.5))

    @property
    def name(self) -> str:
        return self.program.name

    @property
    def surprises(self) -> list[str]:
        """Ends that no kill -9 explains."""
        return [end for end in self.ends if end != NINE]

    def start(self) -> Self:
        """Start it and return when it is ready."""
        self._supervisor.start(self.program)
        return self

    def kill(self) -> int:
        """kill -9; the pid that was."""
        pid = self.program.pid
        assert pid is not None, f"{self.name} does not run: {self.ends}"
        os.kill(pid, signal.SIGKILL)
        return pid

    def back(self, before: int) -> bool:
        """Whether another process than `before` runs and is ready."""
        return self.program.pid not in (None, before) and self.program.ready()

    def stop(self) -> int:
        """SIGTERM and the exit status."""
        self._supervisor.stop()
        return self.program.wait()

    def _ended(self, ended: Ended) -> None:
        self.ends.append(ended.how)


class Fleet:
    """Workers and one ingest on topics of their own. A context manager: it ends what it started."""

    def __init__(
        self, broker: ApacheKafka, folder: Path, store: Path, *, protocol: str = "consumer", url: str = ""
    ) -> None:
        self.broker = broker
        self.folder = folder
        self.topics = Topics(prefix=f"f{uuid.uuid4().hex[:8]}.")
        self.members: list[Member] = []
        self.settings = Settings(
            kafka=KafkaSettings(
                bootstrap_servers=broker.address,
                group_protocol=protocol,  # type: ignore[arg-type]
                session_timeout_ms=SESSION_MS,
                topic_prefix=self.topics.prefix,
                partitions=PARTITIONS,
            ),
            clickhouse=ClickHouseSettings(path=str(folder / "chdb"), url=url, database="pen"),
            models=ModelSettings(store=str(store), cache=str(folder / "models"), device="cpu"),
            worker=WorkerSettings(group=f"{self.topics.prefix}scoring"),
            # Blocks often, so that kills meet many of them.
            ingest=IngestSettings(group=f"{self.topics.prefix}ingest", block_seconds=0.2),
            http=HttpSettings(warehouse_port=free_port()),
            log=LogSettings(format="plain"),
        )
        create_topics(broker.address, self.topics, PARTITIONS)

    def worker(self, name: str, **consumer_properties: str) -> Member:
        """Start `penstock worker`; returns when it is ready."""
        return self.start(self.worker_program(name, **consumer_properties))

    def worker_program(self, name: str, **consumer_properties: str) -> Program:
        """`penstock worker`, not started."""
        settings = self.settings
        if consumer_properties:
            kafka = settings.kafka.model_copy(update={"consumer_properties": consumer_properties})
            settings = settings.model_copy(update={"kafka": kafka})
        port = free_port()
        return self.command(
            name, f"http://127.0.0.1:{port}/readyz", settings, "worker", "--name", name, f"--port={port}"
        )

    def ingest(self) -> Member:
        """Start `penstock ingest`; returns when it is ready."""
        port = self.settings.http.warehouse_port
        return self.start(self.command("ingest", f"http://127.0.0.1:{port}/readyz", self.settings, "ingest"))

    def monitor(self) -> Member:
        """Start `penstock monitor`; returns when it is ready."""
        port = free_port()
        url = f"http://127.0.0.1:{port}/readyz"
        return self.start(self.command("monitor", url, self.settings, "monitor", f"--port={port}"))

    def command(
        self, name: str, ready_url: str, settings: Settings, *arguments: str, module: str = "penstock"
    ) -> Program:
        """Any Penstock command, with these settings and no others; `module`: what runs it."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PENSTOCK_")}
        return Program(
            name,
            [sys.executable, "-m", module, *arguments],
            self.folder / f"{name}.log",
            env={**inherited, "PYTHONPATH": str(ROOT), **settings.environment()},
            ready_url=ready_url,
        )

    def start(self, program: Program) -> Member:
        """Start a program under supervision; returns when it is ready."""
        member = Member(program)
        self.members.append(member)
        return member.start()

    def stop(self) -> Mapping[str, int]:
        """Stop everything, last started first; exit statuses by name."""
        statuses = {}
        while self.members:
            member = self.members[-1]
            statuses[member.name] = member.stop()
            self.members.pop()
        return statuses

    def sql(self, statement: str) -> Any:
        """The first value of the first row, asked of ingest; None while it does not answer."""
        query = urllib.parse.urlencode({"query": statement})
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.settings.http.warehouse_port}/sql?{query}", timeout=10
            ) as answer:
                return json.load(answer)["rows"][0][0]
        except (urllib.error.URLError, OSError, ValueError):
            return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
