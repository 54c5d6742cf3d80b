"""The page's style sheet: the report's and the page's own, in one, with light and dark also by choice. Pure."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Final

_MEDIA: Final = re.compile(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}")
_ROOT: Final = re.compile(r":root\s*\{([^{}]*)\}")


@cache
def style() -> str:
    """The style sheet. `data-theme` on the root element, light or dark, wins over what the system prefers."""
    css = "\n".join(
        (
            files("analytics").joinpath("report.css").read_text("utf-8"),
            files("analytics").joinpath("dashboard/page.css").read_text("utf-8"),
        )
    )
    media = _MEDIA.findall(css)
    dark = "".join(body for one in media if "prefers-color-scheme: dark" in one for body in _ROOT.findall(one))
    light = "".join(_ROOT.findall(_MEDIA.sub("", css)))
    chosen = "".join(
        f':root[data-theme="{name}"] {{ {body} color-scheme: {name}; }}\n'
        for name, body in (("light", light), ("dark", dark))
    )
    return f"{css}\n{chosen}"


@cache
def script() -> str:
    """The page's script, a module."""
    return files("analytics").joinpath("dashboard/page.js").read_text("utf-8")
