"""Writes an experiment's page of HTML to a file; who reads it meanwhile sees the old page or the new one."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analytics.readings import Reading


class ReportFileError(RuntimeError):
    """A page that cannot be written there, in one line."""


def write(reading: Reading, path: Path) -> None:
    """Write the page. Raises `ReportFileError`."""
    from analytics.report_html import page

    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(page(reading), "utf-8")
        scratch.replace(path)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink()
        raise ReportFileError(f"{path} cannot be written: {error.strerror or error}") from None
