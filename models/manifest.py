"""What a model version says about itself: its files with checksums, its signature, how to batch it, its origin."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from models.batching import DEFAULT_LIMITS, BatchLimits
from models.errors import ArtifactError, ManifestError, shown
from models.fields import Fields
from models.signature import Signature

__all__ = [
    "CANDIDATE",
    "MANIFEST",
    "RELEASED",
    "STAGES",
    "ArtifactError",
    "FileEntry",
    "Manifest",
    "ManifestError",
    "check_name",
    "is_name",
]

MANIFEST: Final = "manifest.json"
FORMAT: Final = 1
# The newest released version serves where control names none; a candidate serves only where it is named.
RELEASED: Final = "released"
CANDIDATE: Final = "candidate"
STAGES: Final = (RELEASED, CANDIDATE)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
# A list of numbers that `json.dumps` has written over lines. JSON has no raw line break in a string, so none is met.
_NUMBERS: Final = re.compile(r"\[\n\s*-?[0-9][^\[\]{}\"]*\]")


def is_name(name: str) -> bool:
    """Whether this can be the name of a model or version."""
    return _NAME.fullmatch(name) is not None


def check_name(kind: str, name: str) -> str:
    """The name of a model or version, which is a folder's name too. Raises `ManifestError` where it cannot be."""
    if not is_name(name):
        raise ManifestError(f"{kind}: expected letters, digits and ._- (a letter or digit first), got {shown(name)}")
    return name


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of a version: path inside its folder, SHA-256 in hex, size in bytes."""

    path: str
    sha256: str
    size: int

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        if not self.path or "\\" in self.path or "\0" in self.path or any(part in ("", ".", "..") for part in parts):
            raise ManifestError(f"files: {shown(self.path)} is not a path inside the version's folder")
        if parts == [MANIFEST]:
            raise ManifestError(f"files: {MANIFEST} cannot hold its own checksum")
        if not _SHA256.fullmatch(self.sha256) or self.size < 0:
            raise ManifestError(f"files: {shown(self.path)} needs a sha256 of 64 hex digits and a size")

    @classmethod
    def of(cls, folder: Path, path: str) -> FileEntry:
        """The entry for a file that is there."""
        digest, size = digest_of(folder / path)
        return cls(str(PurePosixPath(path)), digest, size)


def digest_of(path: Path) -> tuple[str, int]:
    """SHA-256 and size of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, file.tell()


@dataclass(frozen=True, slots=True)
class Manifest:
    """A model version. `metrics`, `profile` (of its training features) and `lineage` are free JSON objects.

    `stage` is what it was added as: "released", or "candidate". `fallback`: "NAME/VERSION" of what answers where this
    version cannot; empty: nothing does. `last_answer_seconds`: for so long a user's last answer may
    stand in for a new one where nothing can answer; 0: it may not (docs/degradation.md).
    """

    name: str
    version: str
    files: tuple[FileEntry, ...]
    entrypoint: str
    signature: Signature
    batching: BatchLimits = DEFAULT_LIMITS
    metrics: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, Any] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)
    stage: str = RELEASED
    fallback: str = ""
    last_answer_seconds: float = 0.0

    def __post_init__(self) -> None:
        check_name("name", self.name)
        check_name("version", self.version)
        paths = [one.path for one in self.files]
        if len(set(paths)) != len(paths):
            raise ManifestError(f"files: a path is listed twice: {', '.join(paths)}")
        if self.entrypoint not in paths:
            raise ManifestError(f"entrypoint: {shown(self.entrypoint)} is not among the files ({', '.join(paths)})")
        if self.stage not in STAGES:
            raise ManifestError(f"stage: expected {' or '.join(STAGES)}, got {shown(self.stage)}")
        name, slash, version = self.fallback.partition("/")
        if self.fallback and not (slash and is_name(name) and is_name(version)):
            raise ManifestError(f"fallback: expected NAME/VERSION, got {shown(self.fallback)}")
        if self.fallback_version == (self.name, self.version):
            raise ManifestError("fallback: a version cannot be its own")
        if not 0 <= self.last_answer_seconds < math.inf:
            raise ManifestError(f"last_answer_seconds: expected 0 seconds or more, got {self.last_answer_seconds}")

    @property
    def fallback_version(self) -> tuple[str, str] | None:
        """Name and version of the fallback; None where none is declared."""
        name, slash, version = self.fallback.partition("/")
        return (name, version) if slash else None

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        out = {
            "format": FORMAT,
            "name": self.name,
            "version": self.version,
            "entrypoint": self.entrypoint,
            "files": [asdict(one) for one in self.files],
            "signature": self.signature.to_json(),
            "batching": {**asdict(self.batching), "buckets": list(self.batching.buckets)},
            "metrics": dict(self.metrics),
            "profile": dict(self.profile),
            "lineage": dict(self.lineage),
        }
        # What is as ever is left out, so that older releases read it.
        if self.stage != RELEASED:
            out["stage"] = self.stage
        if self.fallback:
            out["fallback"] = self.fallback
        if self.last_answer_seconds:
            out["last_answer_seconds"] = self.last_answer_seconds
        return out

    @classmethod
    def from_json(cls, value: object) -> Manifest:
        """A manifest from its JSON object. Raises `ManifestError` naming the key."""
        reader = Fields(value, "")
        if reader.integer("format", FORMAT) != FORMAT:
            reader.fail("format", f"{FORMAT}, which is all that this release reads")
        files = []
        for entry in reader.children("files"):
            files.append(FileEntry(entry.text("path"), entry.text("sha256"), entry.integer("size")))
            entry.done()
        manifest = cls(
            reader.text("name"),
            reader.text("version"),
            tuple(files),
            reader.text("entrypoint"),
            Signature.from_json(reader.raw("signature")),
            _read_limits(reader.raw("batching", None)),
            reader.mapping("metrics", {}),
            reader.mapping("profile", {}),
            reader.mapping("lineage", {}),
            reader.text("stage", RELEASED),
            reader.text("fallback", ""),
            reader.number("last_answer_seconds", 0.0),
        )
        reader.done()
        return manifest

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """A manifest file. Raises `ManifestError` naming the file, and the key where it is one."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ManifestError(f"{path}: it cannot be read: {error.strerror}") from None
        return cls.parse(data, str(path))

    @classmethod
    def parse(cls, data: bytes, where: str) -> Manifest:
        """A manifest file's bytes; `where` names them in a `ManifestError`."""
        try:
            return cls.from_json(json.loads(data.decode("utf-8")))
        except ManifestError as error:
            raise ManifestError(f"{where}: {error}") from None
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{where}: it is no JSON: {error}") from None

    def encoded(self) -> bytes:
        """The file. Raises `ManifestError` where a free object holds what JSON cannot carry, such as NaN."""
        try:
            text = json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ManifestError(f"model {self.name} {self.version}: its manifest cannot be JSON: {error}") from None
        # Histograms a line each, and not a line a bin.
        return (_NUMBERS.sub(lambda match: " ".join(match[0].split()), text) + "\n").encode()

    def write(self, path: Path) -> None:
        """Write as a file. Raises `ManifestError` as `encoded` does."""
        path.write_bytes(self.encoded())


def _read_limits(value: object) -> BatchLimits:
    if value is None:
        return DEFAULT_LIMITS
    reader, default = Fields(value, "batching"), BatchLimits()
    try:
        limits = BatchLimits(
            max_rows=reader.integer("max_rows", default.max_rows),
            max_wait=reader.number("max_wait", default.max_wait),
            p99_target=None if reader.raw("p99_target", None) is None else reader.number("p99_target"),
            buckets=reader.integers("buckets", default.buckets),
            max_in_flight=reader.integer("max_in_flight", default.max_in_flight),
            max_run=None if reader.raw("max_run", None) is None else reader.number("max_run"),
        )
    except ManifestError:
        raise
    except ValueError as error:
        raise ManifestError(f"{reader.where}: {error}") from None
    reader.done()
    return limits
