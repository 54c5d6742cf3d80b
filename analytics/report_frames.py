"""The frame that every figure is drawn in: an area with axes, and what is clipped to it. Pure SVG.

Colours are classes of the page's style sheet, so that a figure follows its theme. A figure's numbers are pixels of the
width it is drawn for; a page holds a wide and a narrow drawing of each and shows the one that fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from analytics.report_axes import Scale
from analytics.report_markup import Markup, element, join

Point = tuple[float, float]

WIDE: Final = 520
NARROW: Final = 330
_TOP: Final = 14
_BOTTOM: Final = 30
_RIGHT: Final = 14


@dataclass(frozen=True, slots=True)
class Frame:
    """An area of a figure with the scales of its axes."""

    width: int
    height: int
    x: Scale
    y: Scale

    @classmethod
    def of(
        cls,
        width: int,
        height: int,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        left: int = 52,
        right: int = _RIGHT,
    ) -> Frame:
        """Ranges of both axes; `left` and `right` are kept free for labels."""
        return cls(width, height, Scale(*x, left, width - right), Scale(*y, height - _BOTTOM, _TOP))

    def at(self, x: float, y: float) -> Point:
        """A point in pixels."""
        return self.x(x), self.y(y)

    def y_axis(self, marks: Sequence[float], write: Callable[[float], str]) -> Markup:
        """Lines across and their labels; the line of 0 is heavier."""
        return join(
            join(
                (
                    element(
                        "line", class_="zero" if mark == 0 else "grid",
                        x1=self.x.start, x2=self.x.end, y1=self.y(mark), y2=self.y(mark),
                    ),
                    element("text", write(mark), class_="tick", x=self.x.start - 8, y=self.y(mark) + 4,
                            text_anchor="end"),
                )
            )
            for mark in marks
        )  # fmt: skip

    def x_axis(self, marks: Iterable[tuple[float, str]], title: str = "") -> Markup:
        """Labels below the area; the first and the last stay within the figure."""
        parts = []
        for value, words in marks:
            at = self.x(value)
            # Half of the label's width, at about 6.2 pixels a character of 11 pixels.
            half = len(words) * 3.1
            anchor = "start" if at - half < 0 else "end" if at + half > self.width else "middle"
            parts.append(element("line", class_="mark", x1=at, x2=at, y1=self.y.start, y2=self.y.start + 4))
            parts.append(element("text", words, class_="tick", x=at, y=self.y.start + 17, text_anchor=anchor))
        parts.append(element("line", class_="axis", x1=self.x.start, x2=self.x.end, y1=self.y.start, y2=self.y.start))
        if title:
            parts.append(element("text", title, class_="tick", x=self.x.end, y=self.height - 1, text_anchor="end"))
        return join(parts)

    def clipped(self, *content: str) -> Markup:
        """What must not leave the area: a nested drawing with the same coordinates."""
        left, top = self.x.start, self.y.end
        wide, high = self.x.end - self.x.start, self.y.start - self.y.end
        return element(
            "svg", *content, x=left, y=top, width=wide, height=high, view_box=f"{left:g} {top:g} {wide:g} {high:g}"
        )

    def figure(self, words: str, *content: str) -> Markup:
        """The drawing; `words` say what it shows to those who do not see it."""
        return element(
            "svg", *content,
            class_="narrow" if self.width < WIDE else "wide", role="img", aria_label=words,
            view_box=f"0 0 {self.width} {self.height}", width=self.width, height=self.height,
        )  # fmt: skip


def polyline(points: Sequence[Point], class_: str) -> Markup:
    """A line through points; none for fewer than two."""
    if len(points) < 2:
        return join(())
    return element("polyline", class_=class_, points=_points(points))


def polygon(points: Sequence[Point], class_: str) -> Markup:
    """An area within points."""
    return element("polygon", class_=class_, points=_points(points)) if len(points) > 2 else join(())


def dot(at: Point, radius: float, class_: str, words: str) -> Markup:
    """A dot that says what it is when pointed at."""
    return element("circle", element("title", words), class_=class_, cx=at[0], cy=at[1], r=radius)


def _points(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
