"""Draws docs/report.png, the report of a simulated experiment, with headless Chromium.

`python -m benchmarks.report_picture`
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from analytics.report_html import page
from benchmarks.simulated_reading import simulated_reading
from penstock.docs import folder

PICTURE: Final = "report.png"
SIZE: Final = (1280, 1590)
_SECONDS: Final = 60


class BrowserError(RuntimeError):
    """No picture, in one line."""


def browser() -> str | None:
    """A Chromium of this machine, if it has one."""
    return next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )


def photograph(html: str, picture: Path, size: tuple[int, int], *, dark: bool = False) -> None:
    """What a browser shows of a page, from its top, as PNG. Raises `BrowserError`."""
    program = browser()
    if program is None:
        raise BrowserError("no chromium is on PATH")
    with tempfile.TemporaryDirectory(prefix="penstock-picture-") as place:
        source = Path(place) / "page.html"
        source.write_text(html, "utf-8")
        # The sandbox needs rights that a container does not give; the page is our own and loads nothing.
        done = subprocess.run(
            [
                program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                f"--user-data-dir={place}/profile", f"--window-size={size[0]},{size[1]}",
                f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--screenshot={picture}", source.as_uri(),
            ],
            capture_output=True, text=True, timeout=_SECONDS, check=False,
        )  # fmt: skip
    if done.returncode != 0 or not picture.exists():
        raise BrowserError(f"{program} made no picture: {done.stderr.strip().splitlines()[-1:]}")


def main() -> int:
    """Draw it anew."""
    path = folder() / PICTURE
    photograph(page(simulated_reading()), path, SIZE)
    sys.stdout.write(f"{path}: {path.stat().st_size:,} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
