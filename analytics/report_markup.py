"""Builds HTML and SVG out of elements, so that nothing a user wrote can become markup. Pure.

Whatever goes into an element is text and is escaped, unless it is `Markup`, which only this module makes.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

# Elements without content: the first are HTML's, the others SVG's.
_EMPTY: Final = frozenset({"br", "hr", "input", "link", "meta"})
_VOID: Final = _EMPTY | {"circle", "line", "path", "rect", "polyline", "polygon"}
# Text goes into a file of UTF-8: half a surrogate pair has no place there, nor a character that HTML does not know.
_UNWRITABLE: Final = {**dict.fromkeys(range(0xD800, 0xE000), "\ufffd"), **dict.fromkeys((0, 11, 12), "\ufffd")}


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def text(value: str) -> Markup:
    """Escaped; markup stays what it is."""
    return value if isinstance(value, Markup) else Markup(escape(value.translate(_UNWRITABLE), quote=True))


def join(parts: Iterable[str], between: str = "") -> Markup:
    """One after another."""
    return Markup(text(between).join(text(one) for one in parts))


def element(name: str, /, *content: str, **attributes: str | float | bool | None) -> Markup:
    """One element. `class_` is the attribute class, `stroke_width` is stroke-width; None and False are left out.

    Numbers are written with at most two digits after the point, which is fine enough for a pixel.
    """
    written = "".join(
        f" {_name(key)}" if value is True else f' {_name(key)}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID and not content:
        return Markup(f"<{name}{written}>" if name in _EMPTY else f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join(content)}</{name}>")


def raw(value: str) -> Markup:
    """Markup of our own files: a style sheet. Nothing that a user wrote may come here."""
    return Markup(value)


def _name(key: str) -> str:
    return "viewBox" if key == "view_box" else key.rstrip("_").replace("_", "-")


def _attribute(value: str | float) -> str:
    if isinstance(value, str):
        return text(value)
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
