"""Unpacks an archive somebody else made: nothing leaves the folder, nothing is a link, and a bomb is noticed early."""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from models.errors import ArtifactError, StoreError, shown
from models.objects import CHUNK

SUFFIXES: Final = (".zip", ".tar.gz", ".tgz", ".tar")


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may become: bytes and files, and bytes to each byte of the archive.

    The ratio counts from `free` bytes on: a small file of zeros is packed a thousandfold and harms nobody. Weights are
    hardly packed at all.
    """

    size: int = 32 << 30
    files: int = 10_000
    ratio: float = 100.0
    free: int = 64 << 20


DEFAULT_LIMITS: Final = Limits()


def is_archive(path: Path) -> bool:
    """Whether the file's name says that it is an archive."""
    return path.name.lower().endswith(SUFFIXES)


def unpack(archive: Path, target: Path, limits: Limits = DEFAULT_LIMITS) -> None:
    """Unpack into a folder that is there and empty, a few megabytes at a time.

    Raises `ArtifactError` for what is no such archive, a member whose path leads out of the folder or is no plain
    file, and more than `limits` allow; `StoreError` where the disk takes no more.
    """
    try:
        packed = archive.stat().st_size
        members = _zip_members(archive) if zipfile.is_zipfile(archive) else _tar_members(archive)
        written = 0
        # Closed at once, wherever this ends: a generator that is left alone keeps the archive open.
        with closing(members):
            for number, (name, file) in enumerate(members):
                with file:
                    if number >= limits.files:
                        raise ArtifactError(f"{archive}: it holds more than {limits.files:,} files")
                    with _new(target / _safe(archive, name)) as out:
                        while chunk := file.read(CHUNK):
                            written += len(chunk)
                            _refuse_bomb(archive, written, packed, limits)
                            _write(out, chunk)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise ArtifactError(f"{archive}: it cannot be unpacked: {error}") from None
    except OSError as error:
        raise ArtifactError(f"{archive}: it cannot be unpacked: {error.strerror or error}") from error


def _zip_members(archive: Path) -> Generator[tuple[str, IO[bytes]], None, None]:
    with zipfile.ZipFile(archive) as file:
        for one in file.infolist():
            kind = stat.S_IFMT(one.external_attr >> 16)
            if kind and not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
                raise _no_file(archive, one.filename)
            if one.is_dir():
                _safe(archive, one.filename.rstrip("/"))
                continue
            yield one.filename, file.open(one)


def _tar_members(archive: Path) -> Generator[tuple[str, IO[bytes]], None, None]:
    # As a stream: the list of a bomb's members is not read before its limits are.
    with tarfile.open(archive, "r|*") as file:
        for one in file:
            if one.isdir():
                if one.name.rstrip("/") not in (".", ""):
                    _safe(archive, one.name)
                continue
            opened = file.extractfile(one) if one.isreg() else None
            if opened is None:
                raise _no_file(archive, one.name)
            yield one.name, opened


def _safe(archive: Path, name: str) -> str:
    """The member's path, which stays below the folder. Raises `ArtifactError`."""
    plain = name.removeprefix("./")
    parts = plain.split("/")
    if not plain or "\\" in plain or "\0" in plain or any(part in ("", ".", "..") for part in parts):
        raise ArtifactError(
            f"{archive}: its member {shown(name)} would be written outside its folder; nothing was added"
        )
    return plain


def _no_file(archive: Path, name: str) -> ArtifactError:
    return ArtifactError(f"{archive}: its member {shown(name)} is a link or a device; only files can be added")


def _refuse_bomb(archive: Path, written: int, packed: int, limits: Limits) -> None:
    if written > limits.size:
        raise ArtifactError(
            f"{archive}: it unpacks to more than {limits.size / 1e9:.1f} GB; --max-unpacked-gb allows more"
        )
    if written > limits.free and written > packed * limits.ratio:
        raise ArtifactError(
            f"{archive}: it unpacks to more than {limits.ratio:g} times its {packed:,} bytes, as weights never do"
        )


def _new(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return path.open("xb")
    except FileExistsError:
        raise ArtifactError(f"{path.name}: the archive holds it twice") from None


def _write(out: IO[bytes], chunk: bytes) -> None:
    try:
        out.write(chunk)
    except OSError as error:
        raise StoreError(f"there is no room to unpack in {os.path.dirname(out.name)}: {error.strerror}") from error
