"""Lets people and dashboards ask anything of the warehouse and change, read or reach nothing else.

ClickHouse's `readonly = 1` forbids writes, DDL and changed settings. It is not enough in process: chDB is client and
server at once, so `INTO OUTFILE`, a second statement and the scalar function `file` pass it. A look at the tokens
refuses those before ClickHouse sees them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from analytics.warehouse import Warehouse, WarehouseError

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
    """What one question may cost: seconds, rows of its result, bytes of memory."""

    seconds: float = 30.0
    rows: int = 100_000
    memory: int = 2 * 1024**3


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
    """Answers questions over a session of its own, which it restricts for good."""

    def __init__(self, warehouse: Warehouse, limits: QueryLimits = QueryLimits()) -> None:
        self._warehouse = warehouse
        names = (str(row[0]).lower() for row in warehouse.query("SELECT name FROM system.table_functions").rows)
        self._reaching = frozenset(names) - _HARMLESS
        warehouse.restrict(
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

    def csv(self, sql: str) -> bytes:
        """The result as CSV with a line of names. Raises `QueryRefusedError` or `WarehouseError`."""
        return self._warehouse.raw(check_read_only(sql, self._reaching), "CSVWithNames")

    def json(self, sql: str) -> dict[str, Any]:
        """The result as {"columns": [{"name", "type"}], "rows": [[...]]}; not-a-number is null. Raises as `csv`."""
        answer = json.loads(self._warehouse.raw(check_read_only(sql, self._reaching), "JSONCompact"))
        return {"columns": answer["meta"], "rows": answer["data"]}

    def alive(self) -> bool:
        """Whether ClickHouse answers."""
        return self._warehouse.alive()
