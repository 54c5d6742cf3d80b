"""Apache Parquet as a source of rows, with values that are not what their type says as errors of their rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from producers.pieces import UNREADABLE, Piece, Source, Wanted, after, names_once, unreadable

PIECE_ROWS: Final = 65_536


class Parquet(Source):
    """Apache Parquet; row groups before the first wanted row are not read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with pq.ParquetFile(path) as file:
            names_once(path, file.schema_arrow.names)
            self.schema = {one.name: one.type for one in file.schema_arrow}
            self.rows = file.metadata.num_rows
            self._groups = [file.metadata.row_group(one).num_rows for one in range(file.metadata.num_row_groups)]

    def pieces(self, wanted: Wanted, skip: int = 0) -> Iterator[Piece]:
        first, start = 0, 0
        while first < len(self._groups) and start + self._groups[first] <= skip:
            start += self._groups[first]
            first += 1
        total = max(self.rows or 0, 1)
        try:
            with pq.ParquetFile(self.path, pre_buffer=False, page_checksum_verification=True) as file:
                groups = list(range(first, len(self._groups)))
                for batch in file.iter_batches(PIECE_ROWS, row_groups=groups, columns=list(wanted)):
                    end = start + batch.num_rows
                    table, errors = _readable(pa.Table.from_batches([batch]).select(list(wanted)))
                    piece = after(Piece(table, batch.num_rows, self.size * end // total, errors), skip - start)
                    start = end
                    if piece is not None:
                        yield piece
        except UNREADABLE as error:
            raise unreadable(self.path, error) from None


def _readable(table: Any) -> tuple[Any, dict[int, str]]:
    """The table without values that are not what their type says (text that is no UTF-8), and those as errors."""
    errors: dict[int, str] = {}
    for at, name in enumerate(table.column_names):
        column = table.column(at)
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            if pa.types.is_dictionary(column.type):
                column = pc.cast(column, column.type.value_type)
            places: list[int | None] = list(range(table.num_rows))
            for row in range(table.num_rows):
                try:
                    column.slice(row, 1).combine_chunks().validate(full=True)
                except pa.ArrowInvalid as error:
                    places[row] = None
                    errors.setdefault(row, f"column {name!r}: cannot be read: {str(error).splitlines()[0]}")
            table = table.set_column(at, name, column.take(pa.array(places, pa.int64())))
    return table, errors
