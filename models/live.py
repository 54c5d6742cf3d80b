"""Which version of a model serves where nobody names one, and which did before: the body of its entry on control."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

HISTORY: Final = 20


@dataclass(frozen=True, slots=True)
class Live:
    """The version that serves; those that served before it, the last one first; those that were rolled back from.

    What was rolled back from is no good version to go back to, until it is promoted again.
    """

    version: str
    history: tuple[str, ...] = ()
    rolled_back: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, text: str) -> Live:
        """From an entry's body. Raises ValueError in one line."""
        body: Any = json.loads(text)
        version = body.get("version") if isinstance(body, dict) else None
        if not isinstance(version, str) or not version:
            raise ValueError("its body must be an object with a version, a string")
        lists = [body.get(key, []) for key in ("history", "rolled_back")]
        if not all(isinstance(one, list) and all(isinstance(name, str) for name in one) for one in lists):
            raise ValueError("history and rolled_back must be lists of versions")
        return cls(version, tuple(lists[0]), tuple(lists[1]))

    def to_json(self) -> str:
        """What `from_json` reads."""
        body: dict[str, Any] = {"version": self.version}
        if self.history:
            body["history"] = list(self.history)
        if self.rolled_back:
            body["rolled_back"] = list(self.rolled_back)
        return json.dumps(body)

    @property
    def good(self) -> tuple[str, ...]:
        """The versions to go back to, the last one first."""
        return tuple(one for one in self.history if one not in self.rolled_back and one != self.version)

    def promoted(self, version: str) -> Live:
        """With another version live, and this one the last that was."""
        history = (self.version, *(one for one in self.history if one not in (version, self.version)))
        return Live(version, history[:HISTORY], tuple(one for one in self.rolled_back if one != version))

    def back_to(self, version: str) -> Live:
        """With an earlier version live again, and this one marked as none to go back to."""
        history = tuple(one for one in self.history if one not in (version, self.version))
        marked = (self.version, *(one for one in self.rolled_back if one not in (version, self.version)))
        return replace(self, version=version, history=history, rolled_back=marked[:HISTORY])


def last_good(live: Live, versions: Sequence[str]) -> str | None:
    """Where a rollback leads: the last version that served and is there still, else the next older one there is.

    `versions`: those in the store that may serve, in their natural order. None: there is none.
    """
    for one in live.good:
        if one in versions:
            return one
    older = versions[: versions.index(live.version)] if live.version in versions else versions
    return next((one for one in reversed(older) if one not in live.rolled_back), None)
