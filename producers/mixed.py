"""Columns that turn out to hold more than one type: what was read earlier and what comes later meet as text.

A file without types shows them as it is read. An id that is 1 in the first lines and "two" a million lines later is
text in the output, in all rows, and the same text however often the job was stopped between them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa


def as_text(column: Any) -> Any:
    """An Arrow array or chunked array as text; lists and objects as the JSON that they are."""
    try:
        return column.cast(pa.string())
    except pa.ArrowNotImplementedError:
        texts = [None if one is None else json.dumps(one, default=str) for one in column.to_pylist()]
        return pa.array(texts, pa.string())


def common(schemas: Iterable[Any]) -> Any:
    """One schema for tables with the same columns: a column of several types is text. Keeps the first's metadata."""
    first, *others = schemas
    fields = [
        one if all(other.field(at).type == one.type for other in others) else pa.field(one.name, pa.string())
        for at, one in enumerate(first)
    ]
    return pa.schema(fields, first.metadata)


def conform(table: Any, schema: Any) -> Any:
    """The table with the types of `schema`, as `common` gave it."""
    columns = [
        column if column.type == one.type else as_text(column)
        for column, one in zip(table.columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema) if columns else table


def joined(tables: list[Any]) -> Any:
    """The tables as one. Tables without columns lose their rows here, as in Arrow: count them elsewhere."""
    schema = common(one.schema for one in tables)
    return pa.concat_tables([conform(one, schema) for one in tables])
