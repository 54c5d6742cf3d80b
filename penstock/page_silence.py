"""Reads a silence as the page's form sends it, and has it set by whoever keeps silences."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from analytics.dashboard.alerts_html import DURATIONS
from penstock.page import Silence

_UNITS = {"h": "hours", "d": "days"}


def silence_by(put: Callable[[list[str], timedelta, str, str], Any]) -> Silence:
    """The page's `Silence`: `put` takes matchers, how long, why and who, and raises `ValueError` for what cannot be."""

    def silence(matchers: str, duration: str, comment: str, author: str) -> None:
        if duration not in DURATIONS:
            raise ValueError(f"duration {duration!r}: expected one of {', '.join(DURATIONS)}")
        if not comment.strip():
            raise ValueError("say why, for whoever finds the silence later")
        try:
            parts = shlex.split(matchers)
        except ValueError as error:
            raise ValueError(f"matchers {matchers!r}: {error}") from None
        lasts = timedelta(**{_UNITS[duration[-1]]: int(duration[:-1])})
        put(parts, lasts, comment.strip(), author)

    return silence
