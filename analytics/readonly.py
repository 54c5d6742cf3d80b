"""Lets people and dashboards ask anything of the warehouse and change, read or reach nothing else.

ClickHouse's `readonly = 1` forbids writes, DDL and changed settings. It is not enough in process: chDB is client and
server at once, so `INTO OUTFILE`, a second statement and the scalar function `file` pass it. A look at the tokens
refuses those before ClickHouse sees them.
"""

from __future__ import annotations

import json
import queue
import re
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from analytics.warehouse import Warehouse, WarehouseError, WarehouseUnavailableError

_TOKEN: Final = re.compile(
    r"""
    (?P<skip>   \s+ | --[^\n]* | \#[ !][^\n]* | /\*.*?\*/ )
  | (?P<text>   '(?:[^'\\]|\\.|'')*' | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ )
  | (?P<quoted> "(?:[^"\\]|\\.|"")*" | `(?:[^`\\]|\\.|``)*` )
  | (?P<word>   [^\W\d]\w* )
  | (?P<other>  . )
    """,
    re.VERBOSE | re.DOTALL,
)
_BEGINNINGS: Final = ("select", "with", "show", "describe", "desc", "exists", "explain")
# Table functions that compute and reach nothing.
_HARMLESS: Final = frozenset(
    {
        *("numbers", "numbers_mt", "zeros", "zeros_mt", "primes", "generateseries", "generate_series"),
        *("generaterandom", "values", "sqlstandardvalues", "null", "format", "view", "merge"),
        *("mergetreeindex", "mergetreeprojection"),
    }
)
# Scalar functions that reach out of the warehouse; those that ask a language model are matched by _MODEL.
_REACHING: Final = frozenset(
    {"file", "catboostevaluate", "filesystemavailable", "filesystemcapacity", "filesystemunreserved"}
)
_MODEL: Final = re.compile(r"ai(generate|embed|classify|extract|filter|redact|translate|similarity)\w*")
# ClickHouse's lexer takes typographic quotes for quotes; ours does not, so they must not occur outside a string.
_ODD: Final = re.compile("[\u2018\u2019\u201c\u201d\u2212\x00-\x08\x0e-\x1f]")


class QueryRefusedError(WarehouseError):
    """A statement that is no single, harmless question."""


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """What one question may cost: seconds, rows of its result, bytes of memory.

    `at_once` questions are answered side by side; one more waits up to `patience` seconds for its turn.
    """

    seconds: float = 30.0
    rows: int = 100_000
    memory: int = 2 * 1024**3
    at_once: int = 4
    patience: float = 10.0


class Cancel:
    """A way to break off one question from another thread. It may be used before, while and after it is answered."""

    def __init__(self) -> None:
        # In the statement's text, as a remark: ClickHouse's list of running queries shows it there.
        self.mark = f"penstock-{uuid.uuid4().hex}"
        self.wanted = threading.Event()


def check_read_only(sql: str, reaching: Iterable[str] = ()) -> str:
    """The statement without its last semicolon. Raises `QueryRefusedError` naming what is not allowed.

    `reaching`: lower-case names of functions that must not be called, besides those known to read files or models.
    """
    forbidden = frozenset(reaching) | _REACHING
    tokens = _tokens(sql)
    while tokens and tokens[-1] == ";":
        tokens.pop()
    if not tokens:
        raise QueryRefusedError("the query is empty")
    first = next((one for one in tokens if one != "("), "")
    if first not in _BEGINNINGS:
        raise QueryRefusedError(
            f"only questions are answered here ({', '.join(_BEGINNINGS).upper()}), not {first.upper()}"
        )
    for at, word in enumerate(tokens):
        after = tokens[at + 1] if at + 1 < len(tokens) else ""
        if word == ";":
            raise QueryRefusedError("one statement at a time")
        if _ODD.search(word):
            raise QueryRefusedError(f"typographic quotes and control characters are not allowed: {word!r}")
        if word == "into" and after == "outfile":
            raise QueryRefusedError("INTO OUTFILE is not allowed: use --csv or --json and redirect")
        if word == "format" and at == len(tokens) - 2 and after.isidentifier():
            raise QueryRefusedError("leave FORMAT out: --csv and --json choose it")
        if after == "(" and (word in forbidden or _MODEL.fullmatch(word)):
            raise QueryRefusedError(f"{word}() reaches out of the warehouse and is not allowed")
    return sql.strip().rstrip(";").rstrip()


def _tokens(sql: str) -> list[str]:
    """Words (lower case, also those in quotes: a function's name may be quoted) and signs; no comments or texts."""
    found: list[str] = []
    for match in _TOKEN.finditer(sql):
        kind = match.lastgroup if match.lastgroup != "tag" else "text"
        if kind == "skip":
            continue
        if kind == "text" or match["text"] is not None:
            found.append("''")
        elif kind == "quoted":
            found.append(match[0][1:-1].lower())
        else:
            found.append(match[0].lower())
    return found


class ReadOnlySql:
    """Answers questions side by side, over sessions of its own, which it restricts for good.

    `warehouse` becomes the first of them; more are opened as they are needed. Any thread may ask.
    """

    def __init__(self, warehouse: Warehouse, limits: QueryLimits = QueryLimits()) -> None:
        self._limits = limits
        names = (str(row[0]).lower() for row in warehouse.query("SELECT name FROM system.table_functions").rows)
        self._reaching = frozenset(names) - _HARMLESS
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
            if cancel is None:
                return session.raw(statement, form)
            if cancel.wanted.is_set():
                raise WarehouseError("the question was broken off")
            # On a line of its own at the end: there it moves no position that an error names.
            remark = f"/* {cancel.mark} */"
            try:
                return session.raw(f"{statement}\n{remark}", form)
            except WarehouseError as error:
                raise type(error)(str(error).replace(f"{remark} ", "")) from error

    @contextmanager
    def _session(self) -> Iterator[Warehouse]:
        try:
            session = self._idle.get(timeout=self._limits.patience)
        except queue.Empty:
            raise WarehouseUnavailableError(
                f"{self._limits.at_once} questions are being answered and none of them ended within "
                f"{self._limits.patience:g} s: ask again later"
            ) from None
        try:
            if session is None:
                session = self._restricted(self._first.another())
                self._own.append(session)
            yield session
        finally:
            self._idle.put(session)

    def _restricted(self, session: Warehouse) -> Warehouse:
        limits = self._limits
        session.restrict(
            {
                "max_execution_time": str(limits.seconds),
                "max_result_rows": str(limits.rows),
                "result_overflow_mode": "throw",
                "max_memory_usage": str(limits.memory),
                "output_format_json_quote_64bit_integers": "0",
                "output_format_json_quote_denormals": "0",
                "readonly": "1",
            },
            last=("readonly",),
        )
        return session
