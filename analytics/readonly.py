"""Lets people and dashboards ask anything of the warehouse and change, read or reach nothing else.

ClickHouse's `readonly = 1` forbids writes, DDL and changed settings. It is not enough in process: chDB is client and
server at once, so `INTO OUTFILE`, a second statement and the scalar function `file` pass it. A look at the tokens
refuses those before ClickHouse sees them.
"""

from __future__ import annotations

import json
import queue
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from analytics.readonly_check import QueryRefusedError, check_read_only
from analytics.warehouse import Warehouse, WarehouseError, WarehouseUnavailableError

__all__ = ["Cancel", "QueryLimits", "QueryRefusedError", "ReadOnlySql", "check_read_only"]


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """What one question may cost: seconds, rows and bytes of its result, bytes of memory.

    `at_once` questions are answered side by side; one more waits up to `patience` seconds for its turn.
    """

    seconds: float = 30.0
    rows: int = 100_000
    bytes: int = 64 * 1024**2
    memory: int = 2 * 1024**3
    at_once: int = 4
    patience: float = 10.0


class Cancel:
    """A way to break off one question from another thread. It may be used before, while and after it is answered."""

    def __init__(self) -> None:
        # In the statement's text, as a remark: ClickHouse's list of running queries shows it there.
        self.mark = f"penstock-{uuid.uuid4().hex}"
        self.wanted = threading.Event()


class ReadOnlySql:
    """Answers questions side by side, over sessions of its own, which it restricts for good.

    `warehouse` becomes the first of them; more are opened as they are needed. Any thread may ask.
    """

    def __init__(self, warehouse: Warehouse, limits: QueryLimits = QueryLimits()) -> None:
        self.limits = limits
        names = (str(row[0]).lower() for row in warehouse.query("SELECT name FROM system.table_functions").rows)
        self._reaching = frozenset(names)
        self._first = warehouse
        self._own: list[Warehouse] = []
        # A place in the queue is a right to ask; None is one whose session is not open yet.
        self._idle: queue.LifoQueue[Warehouse | None] = queue.LifoQueue()
        for _ in range(limits.at_once - 1):
            self._idle.put(None)
        self._idle.put(self._restricted(warehouse))

    def csv(self, sql: str, cancel: Cancel | None = None) -> bytes:
        """The result as CSV with a line of names. Raises `QueryRefusedError` or `WarehouseError`."""
        return self._ask(sql, "CSVWithNames", cancel)

    def json(self, sql: str, cancel: Cancel | None = None) -> dict[str, Any]:
        """The result as {"columns": [{"name", "type"}], "rows": [[...]]}; not-a-number is null. Raises as `csv`."""
        answer = json.loads(self._ask(sql, "JSONCompact", cancel))
        return {"columns": answer["meta"], "rows": answer["data"]}

    def cancel(self, cancel: Cancel) -> None:
        """Break off the question that was given `cancel`; its asker gets a `WarehouseError`.

        A query that is just being handed to ClickHouse is missed: call again until its asker has an answer.
        """
        cancel.wanted.set()
        with self._first.another() as session:
            session.query("KILL QUERY WHERE position(query, {mark:String}) > 0 ASYNC", {"mark": cancel.mark})

    def close(self) -> None:
        """Close the sessions that were opened here; the one that was handed in is its owner's to close."""
        for session in self._own:
            session.close()

    def _ask(self, sql: str, form: str, cancel: Cancel | None) -> bytes:
        statement = check_read_only(sql, self._reaching)
        with self._session() as session:
            if cancel is not None and cancel.wanted.is_set():
                raise WarehouseError("the question was broken off")
            # On a line of its own at the end: there it moves no position that an error names.
            remark = f"/* {cancel.mark} */" if cancel is not None else ""
            try:
                return session.raw(f"{statement}\n{remark}" if remark else statement, form)
            except WarehouseError as error:
                said = str(error).replace(f"{remark} ", "") if remark else str(error)
                raise type(error)(self._advice(said)) from error

    def _advice(self, said: str) -> str:
        """What ClickHouse said, behind what to do about it where that is a limit of ours."""
        limits = self.limits
        if "(TIMEOUT_EXCEEDED)" in said:
            return f"the question ran for more than {limits.seconds:g} s and was broken off: ask for less. {said}"
        if "(TOO_MANY_ROWS_OR_BYTES)" in said:
            size = f"{limits.rows:,} rows or {limits.bytes // 1024**2} MiB"
            return f"the answer is larger than {size}: sum it up, or end it with LIMIT {limits.rows}. {said}"
        if "(MEMORY_LIMIT_EXCEEDED)" in said:
            return f"the question needs more than {limits.memory / 1024**3:g} GiB of memory: ask for less. {said}"
        return said

    @contextmanager
    def _session(self) -> Iterator[Warehouse]:
        try:
            session = self._idle.get(timeout=self.limits.patience)
        except queue.Empty:
            raise WarehouseUnavailableError(
                f"{self.limits.at_once} questions are being answered and none of them ended within "
                f"{self.limits.patience:g} s: ask again later"
            ) from None
        try:
            if session is None:
                session = self._restricted(self._first.another())
                self._own.append(session)
            yield session
        finally:
            self._idle.put(session)

    def _restricted(self, session: Warehouse) -> Warehouse:
        limits = self.limits
        session.restrict(
            {
                "max_execution_time": str(limits.seconds),
                "max_result_rows": str(limits.rows),
                "max_result_bytes": str(limits.bytes),
                "result_overflow_mode": "throw",
                "max_memory_usage": str(limits.memory),
                "output_format_json_quote_64bit_integers": "0",
                "output_format_json_quote_denormals": "0",
                "readonly": "1",
            },
            last=("readonly",),
        )
        return session
