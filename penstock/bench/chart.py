"""Draws rates as bars on a logarithmic scale, with their ends as whiskers, in SVG. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from penstock.bench.figures import Spread

_LEFT: Final = 300
_WIDE: Final = 520
_RIGHT: Final = 120
_ROW: Final = 26
_TOP: Final = 52
_OURS: Final = "#1f6feb"
_LIMIT: Final = "#8c959f"
_OTHERS: Final = "#d29922"


@dataclass(frozen=True, slots=True)
class Bar:
    """A label and what was measured; `role`: ours, limit or other."""

    label: str
    spread: Spread
    role: str


def bars(title: str, unit: str, rows: Sequence[Bar]) -> str:
    """An SVG document. The scale goes from the power of ten below the smallest to the one above the largest."""
    values = [value for row in rows for value in row.spread.values if value > 0]
    low = math.floor(math.log10(min(values))) if values else 0
    high = max(low + 1, math.ceil(math.log10(max(values)))) if values else 1
    height = _TOP + _ROW * len(rows) + 34

    def x(value: float) -> float:
        return _LEFT + _WIDE * (math.log10(max(value, 10.0**low)) - low) / (high - low)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDE + _RIGHT}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="100%" height="100%" fill="#ffffff"/><text x="16" y="26" font-size="16">{escape(title)}</text>',
    ]
    bottom = _TOP + _ROW * len(rows)
    for power in range(low, high + 1):
        at = x(10.0**power)
        out.append(f'<line x1="{at:.1f}" y1="{_TOP - 6}" x2="{at:.1f}" y2="{bottom}" stroke="#d8dee4"/>')
        out.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle" fill="#57606a">{10**power:,}</text>')
    for number, row in enumerate(rows):
        top = _TOP + _ROW * number
        middle = top + _ROW / 2 - 3
        colour = {"ours": _OURS, "limit": _LIMIT}.get(row.role, _OTHERS)
        least, most, end = x(min(row.spread.values)), x(max(row.spread.values)), x(row.spread.median)
        out += [
            f'<text x="{_LEFT - 10}" y="{middle + 4:.1f}" text-anchor="end">{escape(row.label)}</text>',
            f'<rect x="{_LEFT}" y="{top}" width="{max(end - _LEFT, 1):.1f}" height="{_ROW - 8}" fill="{colour}"/>',
            f'<line x1="{least:.1f}" y1="{middle:.1f}" x2="{most:.1f}" y2="{middle:.1f}" stroke="#24292f"/>',
            f'<text x="{max(most, end) + 8:.1f}" y="{middle + 4:.1f}">{row.spread.median:,.0f}</text>',
        ]
    out.append(
        f'<text x="{_LEFT + _WIDE}" y="{bottom + 32}" text-anchor="end" fill="#57606a">{escape(unit)}</text></svg>'
    )
    return "\n".join(out) + "\n"
