"""Keeps the control topic's `retrain` entries: at most one open for a model, closed when it has been trained again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from analytics.retraining import KIND, Wish
from schemas.records import Control

log = logging.getLogger(__name__)


class Topic(Protocol):
    """What is needed of `producers.control.ControlTopic`."""

    def entries(self) -> dict[tuple[str, str], Control]:
        """The entries that hold now."""
        ...

    def put(self, kind: str, name: str, body: Any, *, author: str = "") -> Control:
        """Write an entry."""
        ...

    def remove(self, kind: str, name: str) -> None:
        """Write a tombstone."""
        ...


class RetrainError(LookupError):
    """No entry to be closed, in one line."""


@dataclass(frozen=True, slots=True)
class Change:
    """An entry opened or closed, in words."""

    model: str
    opened: bool
    words: str


class Retraining:
    """The `retrain` entries of a control topic. Raises what the topic raises."""

    def __init__(self, topic: Topic, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._topic = topic
        self._clock = clock

    def settle(self, wishes: Mapping[str, Wish], live: Mapping[str, str]) -> list[Change]:
        """Close what a new live version has answered, open what is wished and not open; by model.

        `live`: the version of each model that takes what names none.
        """
        changes = []
        entries = self._topic.entries()
        opened = {name: _body(one) for (kind, name), one in entries.items() if kind == KIND}
        for model, body in sorted(opened.items()):
            version = _version(body)
            if version and live.get(model, version) != version:
                self._topic.remove(KIND, model)
                words = (
                    f"{model}: version {live[model]} is live, which answers the wish to train version {version} again"
                )
                changes.append(Change(model, False, words))
        closed = {one.model for one in changes}
        for model, wish in sorted(wishes.items()):
            # Open at once again would be about the version that has just gone.
            if model in opened or model in closed or live.get(model, wish.version) != wish.version:
                continue
            self._topic.put(KIND, model, wish.body(self._clock()), author="penstock drift")
            changes.append(Change(model, True, f"{model} wants training: {wish.reason}"))
        for one in changes:
            log.warning("%s", one.words)
        return changes

    def close(self, model: str) -> None:
        """Say that a model has been trained again. Raises `RetrainError` where nobody has asked for it."""
        opened = sorted(name for kind, name in self._topic.entries() if kind == KIND)
        if model not in opened:
            raise RetrainError(f"nothing asks for {model!r} to be trained again; open: {', '.join(opened) or 'none'}")
        self._topic.remove(KIND, model)

    def listed(self) -> list[dict[str, Any]]:
        """The open entries: model, and what their bodies say."""
        return [
            {"model": name, **_body(one)} for (kind, name), one in sorted(self._topic.entries().items()) if kind == KIND
        ]


def _body(entry: Control) -> dict[str, Any]:
    try:
        body = json.loads(entry.body)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _version(body: Mapping[str, Any]) -> str:
    evidence = body.get("evidence")
    version = evidence.get("version") if isinstance(evidence, dict) else None
    return version if isinstance(version, str) else ""
