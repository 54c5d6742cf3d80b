"""Brings a warehouse to the shape this release expects, by numbered SQL files that run once each.

ClickHouse has no transaction around DDL, so a run may end between two statements of a file: every statement can
therefore be run again (`IF NOT EXISTS`, `CREATE OR REPLACE VIEW`), and a file is recorded after its last one. A file
that has been applied is never edited; its checksum guards that. Changes come as the next number.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from analytics.warehouse import Warehouse, WarehouseError

_NAME: Final = re.compile(r"(\d{3})_([a-z0-9_]+)\.sql")
_LEDGER: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations
(
    number UInt32,
    name String,
    checksum String,
    applied_at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
ENGINE = MergeTree ORDER BY number
"""


class MigrationError(WarehouseError):
    """A migration that does not fit what has been applied."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of statements."""

    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the statements, whatever their comments and spacing."""
        return hashlib.sha256("\n".join(" ".join(one.split()) for one in self.statements()).encode()).hexdigest()

    def statements(self) -> list[str]:
        """The file's statements: each ends with a semicolon at the end of a line."""
        bare = "\n".join(re.sub(r"^\s*--.*$", "", line) for line in self.text.splitlines())
        return [one.strip() for one in re.split(r";\s*(?:\n|$)", bare) if one.strip()]


def migrations() -> tuple[Migration, ...]:
    """The migrations of this release in order. Raises `MigrationError` where numbers have a gap or a double."""
    found: list[Migration] = []
    for one in files("analytics").joinpath("migrations").iterdir():
        match = _NAME.fullmatch(one.name)
        if match:
            found.append(Migration(int(match[1]), match[2], one.read_text("utf-8")))
    found.sort(key=lambda migration: migration.number)
    for expected, migration in enumerate(found, 1):
        if migration.number != expected:
            raise MigrationError(f"migration {migration.number:03} found where number {expected:03} should be")
    return tuple(found)


def migrate(warehouse: Warehouse, wanted: Sequence[Migration] | None = None) -> tuple[Migration, ...]:
    """Apply what is missing, in order; returns what was applied (nothing, the second time).

    Raises `MigrationError` where an applied file has been edited since, or the warehouse is newer than this release.
    """
    known = migrations() if wanted is None else tuple(wanted)
    warehouse.command(_LEDGER)
    applied = dict(warehouse.query("SELECT number, any(checksum) FROM schema_migrations GROUP BY number").rows)
    newest = max(applied, default=0)
    if newest > len(known):
        raise MigrationError(
            f"{warehouse.config.place}, database {warehouse.config.database}, has migration {newest:03}, "
            f"this release knows {len(known):03}: run a newer release"
        )
    done: list[Migration] = []
    for migration in known:
        if migration.number in applied:
            if applied[migration.number] != migration.checksum:
                raise MigrationError(
                    f"migration {migration.number:03}_{migration.name}.sql was edited after it had been applied: "
                    "restore it, and write the change as a new one"
                )
            continue
        for statement in migration.statements():
            warehouse.command(statement)
        warehouse.command(
            "INSERT INTO schema_migrations (number, name, checksum) "  # noqa: S608 - a file name of ours
            f"VALUES ({migration.number}, '{migration.name}', '{migration.checksum}')",
        )
        done.append(migration)
    return tuple(done)
