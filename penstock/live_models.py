"""Which version of a model serves, as operators change it: promote, roll back, and remove what nobody uses.

The truth is the model's entry on the control topic. Each change names the entry it was decided on, so that of two
operators who change the same model at once one succeeds and the other is told.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from models.compatibility import signature_change
from models.errors import ArtifactError, ManifestError, ModelError, StoreError, UnknownModelError
from models.fallback import check_fallback
from models.live import Live, last_good
from models.manifest import RELEASED, Manifest
from models.rollout import KIND as ROLLOUT
from models.rollout import Rollout, RolloutError
from producers.control import Swap
from schemas.records import Control

KIND: Final = "model"
AUTHOR: Final = "penstock models"
# Entries of other kinds whose body may name versions of a model, and what each is called.
_USERS: Final = {"experiment": "experiment", "experiment-plan": "the plan of experiment", ROLLOUT: "rollout"}


class Topic(Protocol):
    """What is needed of `producers.control.ControlTopic`."""

    def entries(self) -> Mapping[tuple[str, str], Control]:
        """The entries that hold now."""

    def swap(self, kind: str, name: str, body: Any, *, expected: int | None, author: str = "") -> Control:
        """Write an entry in place of one of that revision."""

    def swap_all(self, swaps: Sequence[Swap], *, author: str = "") -> list[Control]:
        """Several at once, or none."""


class Store(Protocol):
    """What is needed of `models.registry.Registry`."""

    def names(self) -> list[str]:
        """The models there are."""

    def versions(self, name: str) -> list[str]:
        """A model's versions."""

    def default_version(self, name: str) -> str:
        """The one that serves where control names none."""

    def manifest(self, name: str, version: str) -> Manifest:
        """What a version says about itself."""

    def verify(self, name: str, version: str) -> Manifest:
        """Compare all its files with their checksums."""

    def remove(self, name: str, version: str) -> Manifest:
        """Take it out."""


class RefusedError(ModelError):
    """A change that would break something; the message says what, and what to do."""


@dataclass(frozen=True, slots=True)
class Change:
    """A model's default version was changed."""

    model: str
    version: str
    before: str
    revision: int


@dataclass(frozen=True, slots=True)
class Use:
    """Something that needs a version. `firm`: not even `--force` takes the version from it."""

    what: str
    firm: bool


class LiveModels:
    """The operations of `penstock models` that ask or change control."""

    def __init__(self, topic: Topic, store: Store, now_us: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._topic = topic
        self._store = store
        self._now_us = now_us

    def promote(self, name: str, version: str, *, new_signature: bool = False, expect: str | None = None) -> Change:
        """Let a version serve by default at once, after its files, and its fallback's, were found right.

        Ends a rollout that is on.

        `expect`: the version that must be live now, where the caller decided by that. Raises `RefusedError`,
        `ArtifactError`, `ControlConflictError`, `BrokerUnavailableError`.
        """
        live, revision = self.checked(name, version, new_signature=new_signature, expect=expect)
        reason = f"version {version} was made live at once"
        return self._swap(name, live, live.promoted(version) if version != live.version else live, revision, reason)

    def checked(
        self, name: str, version: str, *, new_signature: bool = False, expect: str | None = None
    ) -> tuple[Live, int | None]:
        """What is live and the revision of the entry that says so, after a version was found fit to follow it.

        Raises as `promote` does.
        """
        live, revision = self._live(name)
        # Its manifest first: an unknown version is answered before anything is read.
        manifest = self._store.manifest(name, version)
        if expect is not None and expect != live.version:
            raise RefusedError(f"version {live.version} of model {name!r} is live, not {expect}; nothing was changed")
        if revision is not None and version == live.version:
            raise RefusedError(f"version {version} of model {name!r} is live already")
        if not new_signature and version != live.version:
            self._refuse_new_signature(name, live.version, manifest)
        check_fallback(self._store, manifest)
        self._store.verify(name, version)
        if manifest.fallback_version is not None:
            self._store.verify(*manifest.fallback_version)
        return live, revision

    def rollback(self, name: str) -> Change:
        """End a rollout that is on; else go back to the last good version, whose files are verified before.

        Raises as `promote` does.
        """
        live, revision = self._live(name)
        rollout, held = self.rollout(name)
        if rollout is not None and rollout.is_on:
            over = rollout.ended("aborted", "an operator rolled it back", self._now_us())
            entry = self._topic.swap(ROLLOUT, name, over.to_json(), expected=held, author=AUTHOR)
            return Change(name, live.version, rollout.candidate, entry.revision)
        released = [
            one for one in self._store.versions(name) if one in live.history or self._is_released(name, one)
        ]  # fmt: skip
        tried: list[str] = []
        known = live
        while (target := last_good(known, released)) is not None:
            try:
                self._store.verify(name, target)
            except ArtifactError as error:
                tried.append(str(error))
                released.remove(target)
                continue
            return self._swap(name, live, live.back_to(target), revision, f"version {target} was gone back to")
        why = f": {'; '.join(tried)}" if tried else ""
        raise RefusedError(f"there is no version of model {name!r} to go back to from {live.version}{why}")

    def remove(self, name: str, version: str, *, force: bool = False) -> tuple[Manifest, list[Use]]:
        """Take a version that nothing uses out of the store. Returns what used it nevertheless, under `force`."""
        self._store.manifest(name, version)
        uses = self.uses(name, version)
        if firm := [one.what for one in uses if one.firm]:
            raise RefusedError(f"version {version} of model {name!r} is in use: {'; '.join(firm)}")
        if uses and not force:
            what = "; ".join(one.what for one in uses)
            raise RefusedError(
                f"version {version} of model {name!r} is in use: {what}; --force removes it all the same"
            )
        return self._store.remove(name, version), uses

    def uses(self, name: str, version: str) -> list[Use]:
        """What needs a version now."""
        entries = self._topic.entries()
        entry = entries.get((KIND, name))
        if entry is not None:
            live = self._read(name, entry)
            found = [Use("it is live (promote another one first)", True)] if live.version == version else []
        else:
            is_default = self._store.default_version(name) == version
            found = [Use("it serves by default, as the newest", False)] if is_default else []
        for (kind, own), one in sorted(entries.items()):
            if kind in _USERS and not _is_over(kind, one.body) and _names(one.body, own, name, version):
                # A plan without an assignment is of an experiment that does not run.
                found.append(Use(f"{_USERS[kind]} {own!r}", kind != "experiment-plan"))
        return found + [Use(f"it is the fallback of {one}", True) for one in self._leaning_on(name, version)]

    def rollout(self, name: str) -> tuple[Rollout | None, int | None]:
        """The last rollout of a model and its entry's revision; None: there was none. Raises `RefusedError`."""
        entry = self._topic.entries().get((ROLLOUT, name))
        if entry is None:
            return None, None
        try:
            return Rollout.from_json(entry.body), entry.revision
        except RolloutError as error:
            raise RefusedError(
                f"control entry {ROLLOUT}/{name} cannot be read: {error}; remove it (penstock control remove)"
            ) from None

    def stages(self) -> dict[tuple[str, str], str]:
        """What control says of versions: live, previous, rolled back."""
        found: dict[tuple[str, str], str] = {}
        for (kind, name), entry in self._topic.entries().items():
            if kind == KIND:
                live = self._read(name, entry)
                found |= {(name, one): "previous" for one in live.history}
                found |= {(name, one): "rolled back" for one in live.rolled_back}
                found[(name, live.version)] = "live"
        return found

    def _leaning_on(self, name: str, version: str) -> list[str]:
        """Versions whose fallback a version is. Those that cannot be read lean on nothing."""
        found = []
        for model in self._store.names():
            for one in self._store.versions(model):
                with suppress(UnknownModelError, ManifestError):
                    if self._store.manifest(model, one).fallback_version == (name, version):
                        found.append(f"{model} {one}")
        return found

    def _live(self, name: str) -> tuple[Live, int | None]:
        """What serves now, and the revision of the entry that says so (None: the store's newest does)."""
        entry = self._topic.entries().get((KIND, name))
        if entry is None:
            return Live(self._store.default_version(name)), None
        return self._read(name, entry), entry.revision

    def _read(self, name: str, entry: Control) -> Live:
        try:
            return Live.from_json(entry.body)
        except ValueError as error:
            raise RefusedError(
                f"control entry {KIND}/{name} cannot be read: {error}; remove it, or put a right one"
            ) from None

    def _refuse_new_signature(self, name: str, live: str, manifest: Manifest) -> None:
        try:
            before = self._store.manifest(name, live).signature
        except StoreError:
            raise
        except ArtifactError:
            return  # it is gone, or nobody is served by it
        if change := signature_change(before, manifest.signature):
            raise RefusedError(
                f"version {manifest.version} of model {name!r} would not suit the callers of version {live}: {change}; "
                "--new-signature promotes it all the same"
            )

    def _is_released(self, name: str, version: str) -> bool:
        try:
            return self._store.manifest(name, version).stage == RELEASED
        except ArtifactError:
            return False

    def _swap(self, name: str, before: Live, after: Live, revision: int | None, reason: str) -> Change:
        rollout, held = self.rollout(name)
        if rollout is None or not rollout.is_on:
            # One that begins meanwhile was decided on another live version, and its driver takes it back.
            entry = self._topic.swap(KIND, name, after.to_json(), expected=revision, author=AUTHOR)
        else:
            # The live version first: between the two nobody meets a version that he would not meet after both.
            over = rollout.ended("aborted", reason, self._now_us())
            swaps = [Swap(KIND, name, after.to_json(), revision), Swap(ROLLOUT, name, over.to_json(), held)]
            entry = self._topic.swap_all(swaps, author=AUTHOR)[0]
        return Change(name, after.version, before.version, entry.revision)


def _names(body: str, own: str, model: str, version: str) -> bool:
    """Whether an entry of an experiment or rollout names this version of this model."""
    try:
        document = json.loads(body)
    except ValueError:
        return False
    is_ours = own == model or any(key == "model" and value == model for key, value in _texts(document))
    return is_ours and any(value == version for key, value in _texts(document) if key != "model")


def _is_over(kind: str, body: str) -> bool:
    """Whether it is the entry of a rollout that has ended. One that cannot be read may be on."""
    try:
        return kind == ROLLOUT and not Rollout.from_json(body).is_on
    except RolloutError:
        return False


def _texts(value: Any, key: str = "") -> list[tuple[str, str]]:
    """Every text in a document, with the key it is under."""
    if isinstance(value, str):
        return [(key, value)]
    if isinstance(value, dict):
        return [found for name, item in value.items() for found in _texts(item, name)]
    return [found for item in value for found in _texts(item, key)] if isinstance(value, list) else []
