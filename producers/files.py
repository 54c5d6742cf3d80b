"""Files of any size, read in pieces: Parquet, CSV and JSON lines as Arrow tables, with the rows that could not be read.

CSV has no types: every column is read as the text it is. In JSON lines a column not asked for as a certain type has
the type that the first lines show, and is text from where a value does not fit that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from producers.csvrows import Csv
from producers.errors import BulkInputError
from producers.jsonlines import JsonLines
from producers.parquetrows import Parquet
from producers.pieces import UNREADABLE, Source, unreadable

_TEXTS: Final[Mapping[str, type[Source]]] = {".csv": Csv, ".jsonl": JsonLines, ".ndjson": JsonLines}
_KINDS: Final[Mapping[str, type[Source]]] = {
    ".parquet": Parquet,
    ".pq": Parquet,
    **_TEXTS,
    **{f"{end}.gz": kind for end, kind in _TEXTS.items()},
}


def open_source(path: Path) -> Source:
    """The file as a source, by the end of its name. Raises `BulkInputError` where it cannot be read."""
    if not path.is_file():
        odd = "is a folder, not a file" if path.is_dir() else "is no regular file, and cannot be read twice"
        raise BulkInputError(f"{path}: {odd if path.exists() else 'no such file'}")
    kind = next((_KINDS[end] for end in _KINDS if path.name.lower().endswith(end)), None)
    if kind is None:
        raise BulkInputError(f"{path}: cannot tell its format from its name; use one of {', '.join(_KINDS)}")
    try:
        return kind(path)
    except UNREADABLE as error:
        raise unreadable(path, error) from None
