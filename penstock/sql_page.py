"""Keeps docs/sql.md true: runs its queries on real flights and writes the answers below them.

`python -m penstock.sql_page` fills a chDB of its own with the flights of April 2013, as the demo does, and rewrites the
table after each block of SQL; a test holds the committed page to it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any, Final

from analytics.migrate import migrate
from analytics.warehouse import Answer, Warehouse, WarehouseConfig
from penstock.docs import folder
from penstock.flights.evidence import fill, look

PAGE: Final = "sql.md"
START: Final = date(2013, 4, 1)
DAYS: Final = 30
_QUESTION: Final = re.compile(r"```sql\n(?P<sql>.*?)\n```\n\n<!-- answer -->\n(?P<answer>.*?)<!-- end -->", re.DOTALL)
_DIGITS: Final = 4


def prepare(warehouse: Warehouse, now: datetime) -> None:
    """Fill a migrated, empty warehouse with April's flights and look at their experiment."""
    from models.registry import ModelStore
    from penstock.settings import ModelSettings

    plan = fill(warehouse, ModelStore(ModelSettings().store), START, DAYS, now)
    look(warehouse, plan, now)


def questions(page: str) -> Iterator[tuple[str, str]]:
    """Each query of the page, and the table that is below it."""
    for match in _QUESTION.finditer(page):
        yield match["sql"], match["answer"]


def render(page: str, warehouse: Warehouse) -> str:
    """The page with every answer made anew. Raises `WarehouseError` where a query is wrong."""

    def part(match: re.Match[str]) -> str:
        answer = table(warehouse.query(match["sql"]))
        return f"```sql\n{match['sql']}\n```\n\n<!-- answer -->\n{answer}\n<!-- end -->"

    return _QUESTION.sub(part, page)


def table(answer: Answer) -> str:
    """An answer as a Markdown table; fractions to four digits after the point."""
    rows = ["| " + " | ".join(answer.columns) + " |", "|" + "---|" * len(answer.columns)]
    rows += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in answer.rows]
    return "\n".join(rows)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value != value:  # NaN is the one value that differs from itself
        return "none"
    if isinstance(value, float):
        return f"{value:,.{_DIGITS}f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    """Rewrite the page where an answer changed."""
    path = folder() / PAGE
    with (
        tempfile.TemporaryDirectory(prefix="penstock-sql-page-") as place,
        Warehouse.open(WarehouseConfig(path=place)) as warehouse,
    ):
        migrate(warehouse)
        prepare(warehouse, datetime.now(UTC))
        old = path.read_text("utf-8")
        new = render(old, warehouse)
    if new != old:
        path.write_text(new, "utf-8")


if __name__ == "__main__":
    main()
