"""chDB for tests: a process may open one path only, so all tests of a run share it and take a database each."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import uuid
from functools import cache

from analytics.warehouse import Warehouse, WarehouseConfig


@cache
def home() -> str:
    """The one chDB folder of this process, removed at its end."""
    folder = tempfile.mkdtemp(prefix="penstock-chdb-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def _anchor() -> Warehouse:
    """Kept open to the end: the engine ends with its last session, and starting it takes a second."""
    return Warehouse.open(WarehouseConfig(path=home(), database="anchor"))


def fresh_warehouse() -> Warehouse:
    """A session with an empty database of its own."""
    _anchor()
    return Warehouse.open(WarehouseConfig(path=home(), database=f"t{uuid.uuid4().hex[:12]}"))
