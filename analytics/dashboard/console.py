"""What the SQL console shows: a question, its answer or why there is none, and questions that somebody saved. Pure.

Saved questions are the files of `analytics/queries` whose names begin with `ask_`; their first remark is their title.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from analytics import report_numbers as numbers
from analytics.dashboard.layout import address, empty, table, title
from analytics.report_markup import Markup, element, join

SHOWN: Final = 1000
_WIDEST: Final = 400
_NUMERIC: Final = re.compile(r"(Nullable\()?(LowCardinality\()?(U?Int|Float|Decimal|BFloat)\d*")


@dataclass(frozen=True, slots=True)
class Question:
    """A saved question."""

    key: str
    title: str
    sql: str


@dataclass(frozen=True, slots=True)
class Result:
    """An answer: at most `rows_limit` rows were allowed. `error`: why there is none, in one line."""

    columns: tuple[tuple[str, str], ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()
    seconds: float = 0.0
    error: str = ""


@cache
def questions() -> tuple[Question, ...]:
    """The saved questions in the order of their numbers."""
    found = []
    for one in sorted(files("analytics").joinpath("queries").iterdir(), key=lambda file: file.name):
        if one.name.startswith("ask_") and one.name.endswith(".sql"):
            first, _, rest = one.read_text("utf-8").partition("\n")
            found.append(Question(one.name.removesuffix(".sql"), first.removeprefix("--").strip(), rest.strip()))
    return tuple(found)


def content(sql: str, result: Result | None, tables: Sequence[tuple[str, str]], limits: str) -> Markup:
    """The page between its frame. `tables`: name and kind of what can be asked; `limits` in words."""
    return join((
        title("SQL", f"Read-only: {limits}"),
        element(
            "div",
            element("div", _form(sql), element("div", _result(sql, result), id="result", aria_live="polite"),
                    class_="asked"),
            _side(tables),
            class_="console",
        ),
    ))  # fmt: skip


def _form(sql: str) -> Markup:
    rows = min(24, max(8, sql.count("\n") + 2))
    return element(
        "form",
        element("label", "Query", for_="query", class_="hidden"),
        element("textarea", "\n" + sql, id="query", name="query", rows=str(rows), spellcheck="false",
                autocapitalize="off", autocomplete="off",
                placeholder="SELECT model, version, count() FROM predictions GROUP BY ALL"),
        element("div", element("button", "Run", type="submit", class_="primary"),
                element("span", element("kbd", "Ctrl"), " ", element("kbd", "Enter"), class_="hint"),
                element("span", "", id="running", class_="hint", role="status"), class_="row"),
        method="get", action="/console", id="ask",
    )  # fmt: skip


def _result(sql: str, result: Result | None) -> Markup:
    if result is None:
        return empty("Ask anything of the tables, or take a saved question. What writes, reads files or reaches out is "
                     "refused.")  # fmt: skip
    if result.error:
        return element("p", result.error, class_="failed", role="alert")
    shown = result.rows[:SHOWN]
    count = numbers.count(len(result.rows))
    what = f"{count} row{'' if len(result.rows) == 1 else 's'} in {result.seconds * 1000:,.0f} ms"
    if len(shown) < len(result.rows):
        what = f"The first {SHOWN:,} of {count} rows, in {result.seconds * 1000:,.0f} ms; a download has them all"
    line = element(
        "p", element("span", what),
        element("a", "CSV", href=address("/sql", query=sql, format="csv"), download="answer.csv"),
        element("a", "JSON", href=address("/sql", query=sql, format="json"), download="answer.json"),
        class_="row hint",
    )  # fmt: skip
    if not result.columns:
        return line
    columns: list[tuple[str, str]] = [(name, "number" if _NUMERIC.match(kind) else "") for name, kind in result.columns]
    rows = [[_cell(value) for value in row] for row in shown]
    return join((line, table(columns, rows, "Answer", "answer")))


def _side(tables: Sequence[tuple[str, str]]) -> Markup:
    saved = [
        element("li", element("a", one.title, href=address("/console", query=one.sql), data_query=one.sql))
        for one in questions()
    ]
    named = [
        element("li", element("a", name, href=address("/console", query=f"DESCRIBE {name}"),
                              data_query=f"DESCRIBE TABLE {name}"), element("small", kind))
        for name, kind in tables
    ]  # fmt: skip
    return element(
        "aside",
        element("h2", "Saved questions"), element("ul", *saved, class_="plain-list"),
        element("h2", "Tables and views"), element("ul", *named, class_="plain-list tables"),
    )  # fmt: skip


def _cell(value: Any) -> str:
    if value is None:
        return numbers.NONE
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:,.4f}" if abs(value) < 1e6 else f"{value:.6g}"
    if isinstance(value, int):
        return str(value)
    text = str(value)
    return text if len(text) <= _WIDEST else f"{text[:_WIDEST]}…"
