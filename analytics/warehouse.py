"""One way to ClickHouse, whether it runs in this process (chDB) or behind a URL.

chDB: one process may open a path, it may open only that one path, and it must not fork afterwards (start children
before, or start them with `spawn`). Several `Warehouse` objects on the same path share the engine; each has its own
session, which serialises its calls, so give each busy thread its own (`another`, 8 ms): they run side by side. A
session in which a call failed is replaced before the next call, since chDB 4.4 keeps what the failed query had written
so far and puts it in front of the next answer.

    WarehouseError                     one line: what was asked, what ClickHouse said
    ├── WarehouseUnavailableError      nobody answers there, or it is overloaded: the same call may succeed later
    └── WarehouseAccessError           user, password or database refused
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError

log = logging.getLogger(__name__)
# ClickHouse error codes (src/Common/ErrorCodes.cpp): 192 unknown user, 193 wrong password, 194 password required,
# 497 access denied, 516 authentication failed.
_ACCESS: Final = frozenset({192, 193, 194, 497, 516})
# 159 timeout, 202 too many queries, 209 and 210 network, 241 memory, 242 read-only table, 243 disk, 252 too many parts,
# 319 insert state unknown, 999 keeper.
_LATER: Final = frozenset({159, 202, 209, 210, 241, 242, 243, 252, 319, 999})
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# One insert is one block is (per partition) one part: nothing may split or squash it, or a block would not be atomic.
_ONE_BLOCK: Final[Mapping[str, str]] = {
    "async_insert": "0",
    "insert_deduplicate": "1",
    "deduplicate_blocks_in_dependent_materialized_views": "1",
    "max_insert_block_size": "16777216",
    "min_insert_block_size_rows": "16777216",
    "min_insert_block_size_bytes": "0",
    "max_insert_threads": "1",
}


class WarehouseError(Exception):
    """ClickHouse refused, in one line."""


class WarehouseUnavailableError(WarehouseError):
    """ClickHouse cannot be reached, or cannot take this now."""


class WarehouseAccessError(WarehouseError):
    """ClickHouse does not let this user in."""


@dataclass(frozen=True, slots=True)
class WarehouseConfig:
    """Where ClickHouse is. With `url` (http[s]://user:password@host:8123) a server, without it chDB at `path`.

    `settings` are ClickHouse settings for every statement; `timeout` is in seconds and bounds one call to a server.
    """

    url: str = ""
    path: str = ".penstock/chdb"
    database: str = "penstock"
    settings: Mapping[str, str] = field(default_factory=dict)
    connect_timeout: float = 5.0
    timeout: float = 60.0

    def __post_init__(self) -> None:
        if not _IDENTIFIER.fullmatch(self.database):
            raise WarehouseError(f"database name {self.database!r} is not letters, digits and underscores")

    @property
    def place(self) -> str:
        """Where it is, in words, without the password."""
        if not self.url:
            return f"chDB at {self.path}"
        parts = urlsplit(self.url)
        port = f":{parts.port}" if parts.port else ""
        return f"ClickHouse at {parts.scheme}://{parts.hostname or ''}{port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A query's result: `types` are ClickHouse's names for the columns' types, times are aware datetimes in UTC.

    chDB names no columns where there are no rows.
    """

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def dicts(self) -> list[dict[str, Any]]:
        """Each row by column name."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def scalar(self) -> Any:
        """The first value of the first row; None where there is no row."""
        return self.rows[0][0] if self.rows else None


class Warehouse:
    """A session with ClickHouse in one database; several threads may call it. Errors: see the module."""

    def __init__(self, config: WarehouseConfig, connect: Callable[[], Any]) -> None:
        """Connects: `connect` gives a client, and another one where a call failed. Raises `WarehouseError`."""
        self.config = config
        self._connect = connect
        self._restrictions: list[tuple[str, str]] = []
        # Between a failure and the session's replacement no other thread's call may come: it would get the leftovers.
        # A server's client has no session and needs no turns.
        self._turn: AbstractContextManager[Any] = nullcontext() if config.url else threading.Lock()
        self._closed = False
        self._client: Any = self._opened()

    @classmethod
    def open(cls, config: WarehouseConfig, *, create: bool = True) -> Self:
        """Connect; `create` makes the database where it is missing.

        Raises `WarehouseError` (unreachable, refused, a chDB path that another process holds).
        """
        # Its log repeats, at length, what the exception says.
        logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
        options: dict[str, Any] = {"tz_mode": "aware"}
        if config.url:
            parts = urlsplit(config.url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise WarehouseError(
                    "a ClickHouse server's URL looks like http://user:password@host:8123, "
                    f"not like {parts.scheme}://{parts.hostname or ''}"
                )
            options |= {
                "dsn": config.url,
                "connect_timeout": config.connect_timeout,
                "send_receive_timeout": config.timeout,
                "autogenerate_session_id": False,  # a session admits one query at a time; none is needed here
                "settings": dict(config.settings),
            }
        else:
            Path(config.path).mkdir(parents=True, exist_ok=True)
            options |= {"interface": "chdb", "path": config.path, "settings": dict(config.settings)}
        opened = cls(config, lambda: clickhouse_connect.get_client(**options))
        if create:
            with opened._call() as client:
                client.command(f"CREATE DATABASE IF NOT EXISTS {config.database}", use_database=False)
        return opened

    def another(self) -> Warehouse:
        """A second session with the same database, for another thread."""
        return Warehouse.open(self.config, create=False)

    def command(self, sql: str, settings: Mapping[str, str] | None = None) -> None:
        """Run a statement that returns nothing."""
        with self._call() as client:
            client.command(sql, settings=dict(settings or {}))

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Answer:
        """Run a query. `parameters` fill `{name:Type}` places, on the server's side."""
        with self._call() as client:
            result = client.query(sql, parameters=dict(parameters or {}))
            types = tuple(one.name for one in result.column_types)
            return Answer(tuple(result.column_names), types, tuple(tuple(row) for row in result.result_rows))

    def arrow(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """Run a query whose result is large, as an Arrow table (strings as strings)."""
        with self._call() as client:
            return client.query_arrow(sql, parameters=dict(parameters or {}), use_strings=True)

    def raw(self, sql: str, form: str) -> bytes:
        """A query's result in a ClickHouse output format, e.g. JSONCompact or CSVWithNames."""
        with self._call() as client:
            return bytes(client.raw_query(sql, fmt=form))

    def insert(self, table: str, rows: pa.Table, token: str = "") -> None:
        """Insert a table as one block. A block whose `token` is among the last that arrived is dropped by ClickHouse.

        Where all rows belong to one of the table's partitions the insert is atomic: all of it is there, or none.
        """
        settings = dict(_ONE_BLOCK)
        if token:
            settings["insert_deduplication_token"] = token
        with self._call() as client:
            client.insert_arrow(table, rows.combine_chunks(), database=self.config.database, settings=settings)

    def restrict(self, settings: Mapping[str, str], last: Sequence[str] = ()) -> None:
        """Set settings for the rest of this session; those named in `last` after all others (readonly must be)."""
        wanted = [(name, settings[name]) for name in sorted(settings, key=lambda one: one in last)]
        with self._call() as client:
            for name, value in wanted:
                client.set_client_setting(name, value)
            self._restrictions += wanted

    def version(self) -> str:
        """ClickHouse's version."""
        with self._call() as client:
            return str(client.server_version)

    def alive(self) -> bool:
        """Whether it answers now."""
        try:
            return bool(self.query("SELECT 1").scalar() == 1)
        except WarehouseError:
            return False

    def close(self) -> None:
        """End the session. The last one of a process on a chDB path ends the engine."""
        with self._turn:
            client, self._client, self._closed = self._client, None, True
            if client is not None:
                client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _call(self) -> Iterator[Any]:
        """The client for one call, whose result is taken within."""
        with self._turn:
            if self._closed:
                raise WarehouseError(f"{self.config.place}: this session is closed")
            if self._client is None:
                self._client = self._opened()
            try:
                with _in_one_line(self.config):
                    yield self._client
            except BaseException:  # whatever it was: nobody says which failures leave something behind
                if not self.config.url:
                    self._replace()
                raise

    def _opened(self) -> Any:
        with _in_one_line(self.config):
            client = self._connect()
            client.database = self.config.database
            for name, value in self._restrictions:
                client.set_client_setting(name, value)
            return client

    def _replace(self) -> None:
        """Put a new session in the place of one that failed; where that cannot be done now, the next call tries."""
        spoilt, self._client = self._client, None
        try:
            self._client = self._opened()
        except WarehouseError as error:
            log.warning("a session that failed is not replaced yet: %s", error)
        finally:
            # After the new one is there: the last session of a process takes the engine with it.
            spoilt.close()


@contextmanager
def _in_one_line(config: WarehouseConfig) -> Iterator[None]:
    try:
        yield
    except ClickHouseError as error:
        raise _translate(config, error) from error
    except OSError as error:  # a socket that breaks while a body is sent or read
        raise WarehouseUnavailableError(f"{config.place} cannot be reached: {_first_line(error)}") from error


def _translate(config: WarehouseConfig, error: ClickHouseError) -> WarehouseError:
    text = _first_line(error)
    found = re.search(r"\bCode: (\d+)", str(error))
    code = getattr(error, "code", None) or (int(found[1]) if found else None)
    if code in _ACCESS:
        return WarehouseAccessError(
            f"{config.place} refuses this user or password: check clickhouse.url ({_name(text)})"
        )
    if "EmbeddedServer already initialized" in text:
        return WarehouseError(f"this process has another chDB path open already, so {config.path} cannot be opened")
    if not config.url and "Error initializing EmbeddedServer" in text:
        return WarehouseError(
            f"{config.place} cannot be opened: another process has it open (ask it by `penstock sql`, or stop it), "
            "or it is not writable"
        )
    if code is None and isinstance(error, OperationalError):
        reason = re.search(
            r"\[Errno [-\d]+\] [^\])\"']+|[Rr]ead timed out|timed out|Remote end closed[\w ]+", str(error)
        )
        return WarehouseUnavailableError(f"{config.place} cannot be reached: {reason[0].strip() if reason else text}")
    if code in _LATER:
        return WarehouseUnavailableError(f"{config.place} cannot take this now: {text}")
    return WarehouseError(f"{config.place}: {text}")


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    text = re.sub(r"(Code: \d+\. DB::Exception: )+", "", text)
    text = re.sub(r"\s*\(version [^)]*(\([^)]*\))?\)|\s*\(for url [^)]*\)", "", text)
    text = re.sub(r"Received ClickHouse exception, code: \d+, server response: ", "", text)
    return text[:600] or type(error).__name__


def _name(text: str) -> str:
    names = re.findall(r"\(([A-Z][A-Z0-9_]+)\)", text)
    return names[-1] if names else text[:120]
