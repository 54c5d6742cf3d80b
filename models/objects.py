"""Where a registry's bytes are, a folder or whatever fsspec reaches: an object appears whole or not at all.

Both kinds speak of objects by a path below their root, and say `StoreError` in one line for whatever goes wrong there.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from models.errors import ModelError, StoreError
from models.folder import inside, sync

CHUNK: Final = 4 << 20
INCOMING: Final = ".incoming"
_EXTRAS: Final = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_USER: Final = re.compile(r"//[^/@]*@")


@dataclass(frozen=True, slots=True)
class About:
    """An object: its path, size in bytes, and when it was last written (seconds since the epoch)."""

    path: str
    size: int
    modified: float


class Objects(Protocol):
    """Bytes by path. Every method raises `StoreError` where the store does not do it."""

    url: str

    def names(self, path: str) -> list[str]:
        """Folders directly below `path`, sorted; none where it does not exist."""

    def walk(self, path: str) -> Iterator[About]:
        """Every object below `path`."""

    def about(self, path: str) -> About | None:
        """An object, None where there is none."""

    def read(self, path: str) -> bytes | None:
        """A small object's bytes, None where there is none."""

    def chunks(self, path: str) -> Iterator[bytes]:
        """An object's bytes, a few megabytes at a time."""

    def put(self, path: str, chunks: Iterable[bytes]) -> None:
        """Write an object, over what is there. Where `chunks` raises, nothing appears."""

    def create(self, path: str, data: bytes) -> bool:
        """Write a small object unless it is there; of several who try at once one gets True."""

    def delete(self, path: str) -> None:
        """Delete an object; one that is not there is as good."""

    def local(self, path: str) -> Path | None:
        """The object as a file of this machine, where the store is a folder of it."""


def objects_at(url: str | Path) -> Objects:
    """The objects at a folder's path or a URL. Raises `StoreError` where what speaks its protocol is not installed."""
    text = str(url)
    protocol, separator, rest = text.partition("://")
    if not separator or protocol in ("file", "local"):
        return FolderObjects(Path(rest if separator else text))
    import fsspec

    try:
        # What another process adds must be seen.
        system, root = fsspec.core.url_to_fs(text, use_listings_cache=False)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        hint = f"install the extra `{extra}` (pip install '.[{extra}]')" if extra else str(error)
        raise StoreError(f"{_shown(text)}: what speaks {protocol}:// is not installed: {hint}") from None
    except ValueError as error:
        raise StoreError(f"{_shown(text)}: it is no address of a store: {error}") from None
    return RemoteObjects(system, str(root).rstrip("/"), _shown(text))


class FolderObjects:
    """Objects in a folder. A root that does not exist is empty; the first write creates it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def names(self, path: str) -> list[str]:
        """See `Objects`."""
        folder = self.root / path
        try:
            return sorted(one.name for one in folder.iterdir() if one.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise self._failed("be read", error) from error

    def walk(self, path: str) -> Iterator[About]:
        """See `Objects`."""
        for base, _, files in os.walk(self.root / path):
            for one in files:
                found = self.about((Path(base) / one).relative_to(self.root).as_posix())
                if found is not None:
                    yield found

    def about(self, path: str) -> About | None:
        """See `Objects`."""
        try:
            found = inside(self.root, path).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._failed("be read", error) from error
        return About(path, found.st_size, found.st_mtime)

    def read(self, path: str) -> bytes | None:
        """See `Objects`."""
        try:
            return inside(self.root, path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._failed("be read", error) from error

    def chunks(self, path: str) -> Iterator[bytes]:
        """See `Objects`."""
        try:
            with inside(self.root, path).open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk
        except OSError as error:
            raise self._failed("be read", error) from error

    def put(self, path: str, chunks: Iterable[bytes]) -> None:
        """See `Objects`."""
        target = self.root / path
        with self._scratch() as scratch:
            made = scratch / target.name
            with made.open("xb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            target.parent.mkdir(parents=True, exist_ok=True)
            made.replace(inside(self.root, path))
            sync(target.parent)

    def create(self, path: str, data: bytes) -> bool:
        """See `Objects`. The object's folder comes with it: a folder's rename needs no links of the file system."""
        target = self.root / path
        with self._scratch() as scratch:
            made = scratch / "made"
            made.mkdir()
            with (made / target.name).open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            sync(made)
            target.parent.parent.mkdir(parents=True, exist_ok=True)
            try:
                made.rename(inside(self.root, str(Path(path).parent)))
            except OSError:
                # A folder with something in it is not replaced; an empty one is, left by a removed version.
                if target.exists():
                    return False
                raise
            sync(target.parent.parent)
            return True

    def delete(self, path: str) -> None:
        """See `Objects`."""
        target = inside(self.root, path)
        try:
            # Its folder stays, for a writer who is just about to put something into it.
            target.unlink(missing_ok=True)
        except OSError as error:
            raise self._failed("be changed", error) from error

    def local(self, path: str) -> Path | None:
        """See `Objects`."""
        return inside(self.root, path)

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A folder on the same file system, so that the last step is a rename. A killed process leaves it behind."""
        scratch = self.root / INCOMING / secrets.token_hex(8)
        try:
            scratch.mkdir(parents=True)
            yield scratch
        except OSError as error:
            raise self._failed("be written", error) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _failed(self, what: str, error: OSError) -> StoreError:
        return StoreError(f"the store {self.url} cannot {what}: {error.strerror or error}")


class RemoteObjects:
    """Objects behind an fsspec file system, below `root`."""

    def __init__(self, system: Any, root: str, url: str) -> None:
        """`system`: an `fsspec.AbstractFileSystem` that caches no listings."""
        self._system = system
        self._root = root
        self.url = url

    def names(self, path: str) -> list[str]:
        """See `Objects`."""
        with self._speaking("be read"):
            try:
                found = self._system.ls(self._full(path), detail=True)
            except FileNotFoundError:
                return []
            folders = (one["name"].rstrip("/") for one in found if one["type"] == "directory")
            return sorted(one.rpartition("/")[2] for one in folders)

    def walk(self, path: str) -> Iterator[About]:
        """See `Objects`."""
        with self._speaking("be read"):
            try:
                names: list[str] = self._system.find(self._full(path))
            except FileNotFoundError:
                return
        root = self._full("").strip("/")
        for name in names:
            found = self.about(name.lstrip("/").removeprefix(root).lstrip("/"))
            if found is not None:
                yield found

    def about(self, path: str) -> About | None:
        """See `Objects`."""
        with self._speaking("be read"):
            try:
                info = self._system.info(self._full(path))
                if info["type"] == "directory":
                    return None
                return About(path, int(info["size"]), self._system.modified(self._full(path)).timestamp())
            except FileNotFoundError:
                return None

    def read(self, path: str) -> bytes | None:
        """See `Objects`."""
        with self._speaking("be read"):
            try:
                return bytes(self._system.cat_file(self._full(path)))
            except FileNotFoundError:
                return None

    def chunks(self, path: str) -> Iterator[bytes]:
        """See `Objects`."""
        with self._speaking("be read"), self._system.open(self._full(path), "rb", cache_type="readahead") as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def put(self, path: str, chunks: Iterable[bytes]) -> None:
        """See `Objects`."""
        with self._speaking("be written"):
            # Without autocommit: closing a file after a failure would finish a half upload.
            file = self._system.open(self._full(path), "wb", autocommit=False)
            try:
                for chunk in chunks:
                    file.write(chunk)
                file.close()
                file.commit()
            except BaseException:
                file.discard()
                with suppress(AttributeError):  # else its end would try to finish the upload once more
                    file.closed = True
                raise

    def create(self, path: str, data: bytes) -> bool:
        """See `Objects`."""
        with self._speaking("be written"):
            try:
                self._system.pipe_file(self._full(path), data, mode="create")
            except FileExistsError:
                return False
            except Exception:
                # Not every system says it by that exception: S3 answers a failed precondition.
                if self.about(path) is not None:
                    return False
                raise
            return True

    def delete(self, path: str) -> None:
        """See `Objects`."""
        with self._speaking("be changed"), suppress(FileNotFoundError):
            self._system.rm_file(self._full(path))

    def local(self, path: str) -> Path | None:
        """See `Objects`."""
        del path
        return None

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}".rstrip("/")

    @contextmanager
    def _speaking(self, what: str) -> Iterator[None]:
        """Whatever a client raises, of which there are as many trees as clients, is one line about the store."""
        try:
            yield
        except ModelError:
            raise
        except Exception as error:
            said = str(error) or type(error).__name__
            raise StoreError(f"the store {self.url} cannot {what}: {said[:300]}") from error


def _shown(url: str) -> str:
    """A URL without the user and password it may carry."""
    return _USER.sub("//", url)
