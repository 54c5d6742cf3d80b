"""The registry of model versions: content-addressed, whole or not at all, behind a folder or any fsspec URL.

    <store>/<name>/<version>/manifest.json    what a version is; written last, and only where there is none
    <store>/.blobs/sha256/ab/abcd…            its files, by their SHA-256; versions share what they have in common
    <store>/.removed/<name>/<version>.json    what a removed version was: its name is not given to other content

Files that lie beside their manifest are read as well, so a plain folder (`models.folder`) is a registry to begin with.

Adding writes blobs first and the manifest last. A writer that dies leaves blobs that no manifest names; `collect`
deletes them once they are older than any writer takes. For the same reason a writer that finds a blob older than half
of that writes it again rather than trust that it stays.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from models.compatibility import signature_change
from models.errors import ArtifactError, ManifestError, StoreError, UnknownModelError, shown
from models.fallback import check_fallback
from models.fetching import Cache
from models.folder import ModelStore, inside, natural, verified
from models.loading import compare
from models.manifest import MANIFEST, RELEASED, FileEntry, Manifest, check_name, is_name
from models.objects import CHUNK, INCOMING, About, Objects, objects_at
from models.session import declared_of

__all__ = ["ArtifactError", "ModelStore", "Registry", "UnknownModelError", "natural"]

BLOBS: Final = ".blobs/sha256"
REMOVED: Final = ".removed"
# Manifests that are remembered: one with a profile is a quarter of a megabyte in memory, and versions come without end.
KNOWN: Final = 8
# Longer than any writer takes between its first blob and its manifest.
GRACE_SECONDS: Final = 86_400.0
CACHE: Final = Path(".penstock/models")


class Registry:
    """Versions at a URL or in a folder. Safe to use from several processes; one instance, from several threads.

    `cache`: a folder of this machine that files are brought to, where the store is no plain folder; `cache_limit`: the
    bytes above which it is pruned. `clock`: seconds since the epoch, by which garbage is old.
    """

    def __init__(
        self,
        where: str | Path | Objects,
        cache: str | Path = CACHE,
        clock: Callable[[], float] = time.time,
        cache_limit: int | None = None,
    ) -> None:
        """Raises `StoreError` where the URL cannot be spoken to at all; reaches nothing yet."""
        self._objects = objects_at(where) if isinstance(where, str | Path) else where
        self.root = self._objects.url
        # Asked for with every request: to look into the file system each time cost more than to route one.
        self._is_remote = self._objects.local("") is None
        self._cache = Cache(Path(cache), cache_limit)
        self._clock = clock
        # A version never changes, and a remote store takes tenths of a second to say so.
        self._known: OrderedDict[tuple[str, str], tuple[About | None, Manifest]] = OrderedDict()
        # Of every version: a listing asks for no more.
        self._stages: dict[tuple[str, str], tuple[About | None, str]] = {}
        self._seen: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    @property
    def is_remote(self) -> bool:
        """Whether a look into it takes long, and costs."""
        return self._is_remote

    def names(self) -> list[str]:
        """Models that have a version, sorted. Raises `StoreError`."""
        return [name for name in self._objects.names("") if is_name(name) and self._versions(name)]

    def versions(self, name: str) -> list[str]:
        """A model's versions in natural order, the newest last. Raises `UnknownModelError`, `StoreError`."""
        found = self._versions(name)
        if not found:
            there = ", ".join(self.names()) or "none"
            raise UnknownModelError(f"there is no model {shown(name)} in the store {self.root}; there are: {there}")
        return found

    def default_version(self, name: str) -> str:
        """The newest released version; the newest of all where none is released. Raises `UnknownModelError`.

        A version whose manifest cannot be read counts as released: what is wrong with it must be seen.
        """
        found = self.versions(name)
        return next((one for one in reversed(found) if self._is_released(name, one)), found[-1])

    def manifest(self, name: str, version: str) -> Manifest:
        """What a version says about itself. Raises `UnknownModelError`, `ManifestError`, `StoreError`."""
        known = self._known.get((name, version))
        about = self._written(name, version)
        if known is not None and known[0] == about:
            return known[1]
        found = self._read(name, version)
        if found is None:
            there = ", ".join(self.versions(name))
            raise UnknownModelError(f"model {name!r} has no version {shown(version)}; there are: {there}")
        self._stages[(name, version)] = (about, found.stage)
        with self._lock:
            self._known[(name, version)] = (about, found)
            self._known.move_to_end((name, version))
            if len(self._known) > KNOWN:
                self._known.popitem(last=False)
        return found

    def artifact(self, name: str, version: str) -> Path:
        """The path of a version's ONNX file on this machine, whose files were all found right; kept until `release`.

        Raises `ArtifactError` for a file that is missing, changed, not listed, or a link out of its folder.
        """
        manifest = self.manifest(name, version)
        if self._is_plain(manifest):
            folder = self._objects.local(f"{name}/{version}")
            if folder is not None:
                return verified(folder, manifest)
        return self._cache.artifact(manifest, lambda entry: self.chunks(manifest, entry))

    def release(self, name: str, version: str) -> None:
        """A version's files on this machine are needed no more; a cache that is full may drop them."""
        self._cache.release(name, version)

    def verify(self, name: str, version: str) -> Manifest:
        """Read every file of a version and compare it with its checksum. Raises `ArtifactError`."""
        manifest = self.manifest(name, version)
        for entry in manifest.files:
            for _ in checked(manifest, entry, self.chunks(manifest, entry)):
                pass
        return manifest

    def added_at(self, name: str, version: str) -> float:
        """When a version was added, seconds since the epoch by the store's clock. Raises `UnknownModelError`."""
        found = self._objects.about(_manifest_path(name, version))
        if found is None:
            raise UnknownModelError(f"model {name!r} has no version {shown(version)} in the store {self.root}")
        return found.modified

    def chunks(self, manifest: Manifest, entry: FileEntry) -> Iterator[bytes]:
        """A file's bytes as they are stored, unchecked. Raises `ArtifactError` where it is missing."""
        beside = f"{manifest.name}/{manifest.version}/{entry.path}"
        for path in (_blob(entry.sha256), beside):
            if self._objects.about(path) is not None:
                return self._objects.chunks(path)
        raise ArtifactError(
            f"model {manifest.name} {manifest.version}: its file {entry.path} is missing from the store {self.root}"
        )

    def add(self, folder: str | Path, manifest: Manifest, *, new_signature: bool = False) -> Manifest:
        """Add a version whose files lie in `folder`. The same again changes nothing (and mends a spoilt blob).

        Raises `ArtifactError` where a file is not what the manifest says, the ONNX file does not load or does not fit
        its signature, the signature would not suit the callers of the newest version (unless `new_signature`), its
        fallback is not there or does not suit its callers, or the version is there with other content; `StoreError`
        where the store does not take it.
        """
        source = Path(folder)
        for entry in manifest.files:
            path = inside(source, entry.path)
            if not path.is_file():
                raise ArtifactError(f"{path}: the manifest lists it, but there is no such file")
        self._refuse_other(manifest)
        compare(manifest, *declared_of(source / manifest.entrypoint))
        check_fallback(self, manifest)
        if not new_signature:
            self._refuse_new_signature(manifest)
        for entry in manifest.files:
            self.put(manifest, entry, lambda one=entry: _file_chunks(source / one.path))  # type: ignore[misc]
        return self.publish(manifest)

    def put(self, manifest: Manifest, entry: FileEntry, chunks: Callable[[], Iterator[bytes]]) -> int:
        """Bring one file's content into the store, unless it is there; returns the bytes written.

        Raises `ArtifactError` where `chunks` are not what the entry says.
        """
        path = _blob(entry.sha256)
        found = self._objects.about(path)
        if found is not None and found.size == entry.size and self._clock() - found.modified < GRACE_SECONDS / 2:
            try:
                for _ in checked(manifest, entry, self._objects.chunks(path)):
                    pass
            except StoreError:
                raise
            except ArtifactError:
                pass  # it is spoilt, and mended now
            else:
                return 0
        self._objects.put(path, checked(manifest, entry, chunks()))
        return entry.size

    def publish(self, manifest: Manifest) -> Manifest:
        """Write the manifest of a version whose files are there; from then on it exists. Raises `ArtifactError`."""
        self._refuse_other(manifest)
        if not self._objects.create(_manifest_path(manifest.name, manifest.version), manifest.encoded()):
            self._refuse_other(manifest)
        return manifest

    def remove(self, name: str, version: str) -> Manifest:
        """Take a version out of the store. What only it needed is garbage then. Raises `UnknownModelError`.

        Whether something uses it is not for the store to know: ask before.
        """
        manifest = self.manifest(name, version)
        beside = [one.path for one in self._objects.walk(f"{name}/{version}")]
        self._objects.put(_removed_path(name, version), iter([manifest.encoded()]))
        with self._lock:
            self._known.pop((name, version), None)
        self._stages.pop((name, version), None)
        self._seen.discard((name, version))
        self._objects.delete(_manifest_path(name, version))
        for path in beside:
            self._objects.delete(path)
        return manifest

    def collect(self, grace: float = GRACE_SECONDS) -> tuple[int, int]:
        """Delete what no version needs and is older than `grace` seconds: how many objects, how many bytes.

        Raises `ArtifactError` where a manifest cannot be read: what it needs cannot be told, so nothing is deleted.
        """
        limit = self._clock() - grace
        old = [one for place in (BLOBS, INCOMING) for one in self._objects.walk(place) if one.modified < limit]
        needed = {
            _blob(entry.sha256)
            for name in self.names()
            for version in self.versions(name)
            for entry in self.manifest(name, version).files
        }
        gone = bytes_gone = 0
        for one in old:
            again = self._objects.about(one.path)
            # Another writer may have written it anew since.
            if one.path not in needed and again is not None and again.modified < limit:
                self._objects.delete(one.path)
                gone, bytes_gone = gone + 1, bytes_gone + one.size
        return gone, bytes_gone

    def _versions(self, name: str) -> list[str]:
        if not is_name(name):
            return []
        return sorted((one for one in self._objects.names(name) if is_name(one) and self._has(name, one)), key=natural)

    def _has(self, name: str, version: str) -> bool:
        # An object store shows no folder once nothing is in it, so what was seen there need not be asked for again.
        if self.is_remote and (name, version) in self._seen:
            return True
        try:
            found = self._objects.about(_manifest_path(name, version)) is not None
        except StoreError:
            raise
        except ArtifactError:
            return True  # a link out of the store; whoever opens it is told
        if found:
            self._seen.add((name, version))
        return found

    def _written(self, name: str, version: str) -> About | None:
        """By what is known that a manifest has not changed: in a folder somebody may, and asking costs nothing."""
        own = not self.is_remote and is_name(name) and is_name(version)
        return self._objects.about(_manifest_path(name, version)) if own else None

    def _is_released(self, name: str, version: str) -> bool:
        try:
            known = self._stages.get((name, version))
            if known is not None and known[0] == self._written(name, version):
                return known[1] == RELEASED
            return self.manifest(name, version).stage == RELEASED
        except StoreError:
            raise
        except ArtifactError:
            return True

    def _is_plain(self, manifest: Manifest) -> bool:
        """Whether its files lie beside its manifest, and nowhere else: a blob of the same name is believed first."""
        (entry,) = (one for one in manifest.files if one.path == manifest.entrypoint)
        beside = f"{manifest.name}/{manifest.version}/{entry.path}"
        return self._objects.about(_blob(entry.sha256)) is None and self._objects.about(beside) is not None

    def _read(self, name: str, version: str) -> Manifest | None:
        if not is_name(name) or not is_name(version):
            return None
        path = _manifest_path(name, version)
        data = self._objects.read(path)
        if data is None:
            return None
        where = f"{self.root}/{path}"
        found = Manifest.parse(data, where)
        if (found.name, found.version) != (name, version):
            raise ManifestError(f"{where}: it is of {found.name} {found.version}, not {name} {version}")
        return found

    def _refuse_other(self, manifest: Manifest) -> None:
        """Raise where the version's name is given to other content, also to what was removed."""
        name, version = check_name("name", manifest.name), check_name("version", manifest.version)
        there = self._read(name, version)
        if there is not None and there != manifest:
            raise ArtifactError(
                f"model {name!r} has a version {version!r} already, with {_difference(there, manifest)}; "
                "a version never changes, so give this one another"
            )
        gone = self._objects.read(_removed_path(name, version)) if there is None else None
        if gone is not None and Manifest.parse(gone, f"{self.root}/{_removed_path(name, version)}") != manifest:
            raise ArtifactError(
                f"model {name!r} had a version {version!r} with other content, which was removed; "
                "records of it remain, so give this one another"
            )

    def _refuse_new_signature(self, manifest: Manifest) -> None:
        others = [one for one in self._versions(manifest.name) if one != manifest.version]
        released = [one for one in others if self._is_released(manifest.name, one)]
        for version in (released or others)[-1:]:
            try:
                before = self.manifest(manifest.name, version).signature
            except StoreError:
                raise
            except ArtifactError:
                return  # nobody is served by it
            if change := signature_change(before, manifest.signature):
                raise ArtifactError(
                    f"model {manifest.name} {manifest.version} would not suit the callers of version {version}: "
                    f"{change}; --new-signature takes it all the same"
                )


def checked(manifest: Manifest, entry: FileEntry, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks as they come, and `ArtifactError` at their end where they are not what the entry says."""
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
        yield chunk
    what = f"model {manifest.name} {manifest.version}: {entry.path} should have"
    if size != entry.size:
        raise ArtifactError(f"{what} {entry.size} bytes, it has {size}; add it again")
    if digest.hexdigest() != entry.sha256:
        raise ArtifactError(f"{what} SHA-256 {entry.sha256}, it has {digest.hexdigest()}; add it again")


def restaged(manifest: Manifest, name: str, version: str, stage: str) -> Manifest:
    """A manifest as another version's."""
    return replace(manifest, name=check_name("name", name), version=check_name("version", version), stage=stage)


def _difference(there: Manifest, here: Manifest) -> str:
    for part in (
        "files",
        "entrypoint",
        "signature",
        "batching",
        "metrics",
        "profile",
        "lineage",
        "stage",
        "fallback",
        "last_answer_seconds",
    ):
        if getattr(there, part) != getattr(here, part):
            return f"another {part}" if part != "files" else "other files"
    return "other content"


def _file_chunks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError as error:
        raise ArtifactError(f"{path}: it cannot be read: {error.strerror}") from None


def _manifest_path(name: str, version: str) -> str:
    return f"{name}/{version}/{MANIFEST}"


def _removed_path(name: str, version: str) -> str:
    return f"{REMOVED}/{name}/{version}.json"


def _blob(sha256: str) -> str:
    return f"{BLOBS}/{sha256[:2]}/{sha256}"
