"""Brings a version's files from a store to a folder of this machine, where ONNX Runtime can open them."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from models.errors import ArtifactError, StoreError
from models.folder import refuse_unlisted, verify_file
from models.manifest import FileEntry, Manifest

log = logging.getLogger(__name__)

_INCOMING: Final = ".incoming"
# What a fetch left behind that was killed; none takes so long.
_STALE_SECONDS: Final = 86_400.0


class Cache:
    """Files under `<root>/<name>/<version>-<digest of the manifest>/`, each checked whenever it is asked for.

    Processes may share it. Nothing in it is needed: it can be deleted while nobody loads a model. Over `limit` bytes
    those versions go that were not asked for the longest, as the time of their folder says, but none that a process
    holds: from `artifact` until `release` it has a shared lock (flock) on the folder, which ends with it.
    """

    def __init__(self, root: Path, limit: int | None = None) -> None:
        self.root = root
        self._limit = limit
        self._held: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    def artifact(self, manifest: Manifest, chunks: Callable[[FileEntry], Iterator[bytes]]) -> Path:
        """The path of a version's ONNX file, after what is missing or spoilt here was fetched and checked.

        Raises `ArtifactError` where a file is not what its entry says, `StoreError` where there is no room for it.
        """
        digest = hashlib.sha256(manifest.encoded()).hexdigest()[:16]
        folder = self.root / manifest.name / f"{manifest.version}-{digest}"
        self._hold(manifest.name, manifest.version, folder)
        for entry in manifest.files:
            try:
                verify_file(folder, manifest, entry)
            except ArtifactError:
                self._fetch(folder / entry.path, chunks(entry))
                verify_file(folder, manifest, entry)
        refuse_unlisted(folder, manifest)
        with suppress(OSError):  # a cache that was filled before and cannot be written is as good
            os.utime(folder)
        if self._limit is not None:
            self.prune(self._limit)
        return folder / manifest.entrypoint

    def release(self, name: str, version: str) -> None:
        """A version is in use no more, as far as this object knows; twice is fine."""
        with self._lock:
            descriptor = self._held.pop((name, version), None)
        if descriptor is not None:
            os.close(descriptor)

    def prune(self, limit: int) -> int:
        """Delete versions that nobody holds, the least recently used first, until `limit` bytes are left, if they are.

        Returns the bytes that are gone. What cannot be looked at or deleted stays, with a line in the log.
        """
        gone = 0
        try:
            self._drop_stale()
            found = sorted(self._versions())
            over = sum(size for _, size, _ in found) - limit
            for _, size, folder in found:
                if over <= gone:
                    break
                if self._delete(folder):
                    log.info("%s leaves the cache of models, which may hold %d bytes", folder, limit)
                    gone += size
        except OSError as error:
            log.warning("the cache of models %s was not pruned: %s", self.root, error)
        return gone

    def _versions(self) -> Iterator[tuple[float, int, Path]]:
        """When each was used, its bytes, its folder."""
        for folder in self.root.glob("[!.]*/*"):
            # Another process may delete it meanwhile.
            with suppress(FileNotFoundError):
                size = sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
                yield folder.stat().st_mtime, size, folder

    def _delete(self, folder: Path) -> bool:
        """Delete a folder that nobody holds; False where somebody does."""
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            aside = self.root / _INCOMING / secrets.token_hex(8)
            aside.parent.mkdir(exist_ok=True)
            folder.rename(aside)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        shutil.rmtree(aside)
        return True

    def _drop_stale(self) -> None:
        limit = time.time() - _STALE_SECONDS
        for one in self.root.glob(f"{_INCOMING}/*"):
            with suppress(FileNotFoundError):
                if one.stat().st_mtime < limit:
                    shutil.rmtree(one) if one.is_dir() else one.unlink()

    def _hold(self, name: str, version: str, folder: Path) -> None:
        """Make the folder where it is missing, and lock it against being pruned."""
        self.release(name, version)
        try:
            while True:
                folder.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
                with suppress(OSError):  # a file system without locks is never pruned either
                    fcntl.flock(descriptor, fcntl.LOCK_SH)
                # It may have been moved aside between the two.
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(descriptor), folder.stat()):
                        break
                os.close(descriptor)
        except OSError as error:
            raise self._unwritable(error) from error
        with self._lock:
            other = self._held.pop((name, version), None)
            self._held[(name, version)] = descriptor
        if other is not None:
            os.close(other)

    def _fetch(self, target: Path, chunks: Iterator[bytes]) -> None:
        scratch = self.root / _INCOMING / secrets.token_hex(8)
        try:
            scratch.parent.mkdir(parents=True, exist_ok=True)
            with scratch.open("xb") as file:
                for chunk in chunks:
                    file.write(chunk)
            target.parent.mkdir(parents=True, exist_ok=True)
            # Another process may fetch the same: whoever is last replaces like with like.
            os.replace(scratch, target)
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            with suppress(OSError):  # there is none where its folder could not be made
                scratch.unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> StoreError:
        return StoreError(f"the cache of models {self.root} cannot be written: {error.strerror or error}")
