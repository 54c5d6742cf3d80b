"""Copies versions from one registry to others, of other regions say, and tells how far each is behind.

A copy can be broken off anywhere: blobs that are there are not copied again, and a version appears in a replica, as in
any registry, with its manifest, after its files. Every byte is hashed on its way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from models.errors import ArtifactError, StoreError, UnknownModelError
from models.manifest import FileEntry, Manifest
from models.registry import Registry


@dataclass(frozen=True, slots=True)
class Copied:
    """What a round did for one replica.

    `versions` and `bytes` were copied; `missing` versions are still not there, `problems` says why. `lag`: seconds
    since the oldest of those was added (0: none is missing). `only_there`: versions that the source does not have.
    """

    replica: str
    versions: tuple[str, ...] = ()
    bytes: int = 0
    missing: int = 0
    lag: float = 0.0
    only_there: tuple[str, ...] = ()
    problems: tuple[str, ...] = field(default=())


class Replication:
    """A source and one replica of it. `clock`: seconds since the epoch."""

    def __init__(self, source: Registry, replica: Registry, clock: Callable[[], float]) -> None:
        self._source = source
        self._replica = replica
        self._clock = clock
        # While one of the two does not answer, what is missing is not known: the lag grows from the last round that was
        # complete, or from the first one.
        self._complete_at = clock()

    @property
    def url(self) -> str:
        """The replica's address."""
        return self._replica.root

    def round(self, names: tuple[str, ...] = (), *, verify: bool = False) -> Copied:
        """Copy what is missing, the oldest first; all models, or those named. Raises `UnknownModelError` for a name.

        `verify` reads the versions that are there as well, and compares them with their checksums. What goes wrong
        with one version is a problem of it, and the others are copied.
        """
        try:
            wanted = [(name, version) for name in names or self._source.names() for version in self._versions(name)]
            have = {(name, version) for name in self._replica.names() for version in self._replica.versions(name)}
            added = {key: self._source.added_at(*key) for key in wanted if key not in have}
        except UnknownModelError:
            raise
        except StoreError as error:
            return Copied(self.url, lag=self._clock() - self._complete_at, problems=(str(error),))
        copied: list[str] = []
        problems: list[str] = []
        total = 0
        for key in sorted(added, key=lambda one: (added[one], one)):
            try:
                total += self._copy(self._source.manifest(*key))
            except ArtifactError as error:
                problems.append(f"{key[0]} {key[1]}: {error}")
            else:
                copied.append(f"{key[0]} {key[1]}")
                del added[key]
        problems += self._compared([key for key in wanted if key in have], verify)
        now = self._clock()
        if not added:
            self._complete_at = now
        lag = max((now - at for at in added.values()), default=0.0)
        strangers = tuple(f"{name} {version}" for name, version in sorted(have - set(wanted)) if not names)
        return Copied(self.url, tuple(copied), total, len(added), max(lag, 0.0), strangers, tuple(problems))

    def _versions(self, name: str) -> list[str]:
        return self._source.versions(name)

    def _copy(self, manifest: Manifest) -> int:
        written = 0
        for entry in manifest.files:

            def chunks(one: FileEntry = entry) -> Iterator[bytes]:
                return self._source.chunks(manifest, one)

            written += self._replica.put(manifest, entry, chunks)
        self._replica.publish(manifest)
        return written

    def _compared(self, keys: list[tuple[str, str]], verify: bool) -> Iterator[str]:
        """A line for each version that the replica has otherwise than the source."""
        for name, version in keys:
            try:
                theirs = self._replica.manifest(name, version)
                if theirs != self._source.manifest(name, version):
                    yield f"{name} {version}: the replica has it with other content"
                elif verify:
                    self._replica.verify(name, version)
            except ArtifactError as error:
                yield f"{name} {version}: {error}"
