"""What a bulk job has done so far, on disk, so that a killed job goes on where it was and ends with the same file.

A folder next to the output holds `state.json` (what the job is) and part files, each with the results of consecutive
batches. Every file appears by rename after it was synced, so whatever has its final name is whole. At the end the
parts are streamed into one file in pieces of a fixed size: where the parts were cut does not show.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa

from producers.errors import BulkError, BulkInputError
from producers.mixed import common, conform
from producers.results import ERROR
from producers.writers import ROW_GROUP, open_writer

_PART: Final = re.compile(r"part-(\d{9})-(\d{9})\.arrow")
_FORMAT: Final = 2


@dataclass(frozen=True, slots=True)
class State:
    """What a job is. `binding`: all that its results depend on, as JSON; `version`: the pinned model version.

    `rows`, `errors`: of the whole output, once it is `finished`.
    """

    binding: Mapping[str, Any]
    job: str
    batch_rows: int
    version: str = ""
    finished: bool = False
    rows: int = 0
    errors: int = 0


class Checkpoint:
    """The folder of one output file. One process at a time holds it; `close` lets go."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output.with_name(output.name + ".partial")
        self.state: State | None = None
        self._lock: IO[bytes] | None = None

    def resume(self, binding: Mapping[str, Any], *, force: bool) -> State | None:
        """Take up the job that was begun here; None where there is none.

        Raises `BulkInputError` where it is another job; `force` discards that one instead.
        """
        if not self.folder.is_dir():
            return None
        self._take()
        state = self._read()
        if state is None and (force or not any(self.folder.glob("part-*"))):
            self.discard()  # killed before it was anything
            return None
        if state is not None and state.binding == json.loads(json.dumps(binding)):
            for left in self.folder.glob("*.tmp"):
                left.unlink()
            self.state = state
            return state
        if not force:
            detail = _difference(state.binding, binding) if state else "its state cannot be read"
            self.close()
            raise BulkInputError(
                f"{self.folder} holds an unfinished run of another job ({detail}); start over with --force"
            )
        self.discard()
        return None

    def begin(self, state: State) -> None:
        """Make the folder, for a job that has its first result."""
        self.folder.mkdir(exist_ok=True)
        self._take()
        if self._read() is not None:
            self.close()
            raise BulkInputError(f"{self.folder}: another run has begun here meanwhile")
        self._write(state)

    def pin(self, version: str) -> None:
        """Remember the version that the job is scored with."""
        assert self.state is not None  # noqa: S101 - begun
        self._write(replace(self.state, version=version))

    def done(self) -> int:
        """How many batches are on disk, from the first on without a gap."""
        return max((last + 1 for _, last, _ in self._parts()), default=0)

    def rows(self) -> int:
        """How many rows those batches have."""
        return sum(_rows(path) for _, _, path in self._parts())

    def append(self, first: int, last: int, table: Any) -> None:
        """Keep the results of batches `first` to `last`; durable on return."""
        path = self.folder / f"part-{first:09d}-{last:09d}.arrow"
        with _replacing(path) as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)

    def finish(self, schema: Any) -> tuple[int, int]:
        """Assemble the output, put it in its place, and remove the folder. May be repeated after a kill.

        `schema`: the output's, but that a column is text where one of the parts has it as text. Returns how many rows
        it has, and how many of them have an error.
        """
        assert self.state is not None  # noqa: S101 - begun
        whole = self.folder / f"output{self.output.suffix}"
        if not (self.state.finished and (whole.exists() or self.output.exists())):
            rows = good = 0
            types = common([schema, *(_schema(path) for _, _, path in self._parts())])
            with _replacing(whole) as file, open_writer(self.output, file, types) as writer:
                for table in _regroup(self._tables(), types):
                    writer.write_table(table, row_group_size=ROW_GROUP)
                    rows += table.num_rows
                    good += table.column(ERROR).null_count
            self._write(replace(self.state, finished=True, rows=rows, errors=rows - good))
        if whole.exists():
            os.replace(whole, self.output)
            _sync_folder(self.output.parent)
        counted = self.state.rows, self.state.errors
        self.discard()
        return counted

    def discard(self) -> None:
        """Remove the folder. Killed half-way it is still seen for what it is: a finished job keeps its state to the
        last, any other loses it first, so that nobody goes on with half of its parts."""
        state = self.folder / "state.json"
        if self.state is None or not self.state.finished:
            state.unlink(missing_ok=True)
        for one in self.folder.iterdir():
            if one.name not in ("state.json", "lock"):
                one.unlink()
        state.unlink(missing_ok=True)
        shutil.rmtree(self.folder)
        self.close()

    def close(self) -> None:
        """Let go of the folder; what is in it stays."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take(self) -> None:
        if self._lock is not None:
            return
        lock = (self.folder / "lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise BulkInputError(f"{self.folder} is in use: another `penstock score` writes {self.output}") from None
        self._lock = lock

    def _read(self) -> State | None:
        try:
            raw = json.loads((self.folder / "state.json").read_text("utf-8"))
            if raw.pop("format") != _FORMAT:
                return None
            return State(**raw)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def _write(self, state: State) -> None:
        text = json.dumps({"format": _FORMAT, **asdict(state)}, indent=1)
        with _replacing(self.folder / "state.json") as file:
            file.write(text.encode())
        self.state = state

    def _parts(self) -> list[tuple[int, int, Path]]:
        found = []
        for path in sorted(self.folder.glob("part-*.arrow")):
            match = _PART.fullmatch(path.name)
            if match:
                found.append((int(match[1]), int(match[2]), path))
        wanted = 0
        for first, last, path in found:
            if first != wanted:
                raise BulkError(f"{self.folder} has lost the part before {path.name}; start over with --force")
            wanted = last + 1
        return found

    def _tables(self) -> Iterator[Any]:
        for _, _, path in self._parts():
            with pa.memory_map(str(path)) as file:
                yield pa.ipc.open_file(file).read_all()


class _replacing:  # noqa: N801 - used like a function
    """A file that takes its name when it is whole and synced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(path.name + ".tmp")

    def __enter__(self) -> IO[bytes]:
        self._file = self._temporary.open("wb")
        return self._file

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        if kind is None:
            os.replace(self._temporary, self._path)
            _sync_folder(self._path.parent)
        else:
            self._temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _rows(path: Path) -> int:
    with pa.memory_map(str(path)) as file:
        reader = pa.ipc.open_file(file)
        return sum(reader.get_batch(one).num_rows for one in range(reader.num_record_batches))


def _schema(path: Path) -> Any:
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).schema


def _regroup(tables: Iterator[Any], schema: Any) -> Iterator[Any]:
    """The same rows in tables of `ROW_GROUP` rows, each in one piece, so that the file depends on the rows alone."""
    held = schema.empty_table()
    for table in tables:
        held = pa.concat_tables([held, conform(table, schema)])
        while held.num_rows >= ROW_GROUP:
            yield held.slice(0, ROW_GROUP).combine_chunks()
            held = held.slice(ROW_GROUP)
    if held.num_rows:
        yield held.combine_chunks()


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(new))
    for name in {**old, **plain}:
        if old.get(name) != plain.get(name):
            return f"{name}: {_short(old.get(name))} then, {_short(plain.get(name))} now"
    return "it differs"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
