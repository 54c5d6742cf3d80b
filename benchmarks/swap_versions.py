"""Versions of one model by the dozen: every one with bytes of its own, and spoilt ones of each kind."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from models.manifest import CANDIDATE, FileEntry, Manifest
from models.registry import Registry
from models.session import Session, signature_of
from penstock.bench.onnx_file import mlp
from schemas.tensors import Array

ZOO: Final = Path(__file__).parent.parent / "models" / "zoo"
FLIGHTS: Final = "flight-delay"
# A model made here, with weights enough that opening it takes a while: 4.4 MB.
MADE: Final = "made"
_MADE_SIZES: Final = (32, 1024, 1024, 1)
ONNX: Final = "model.onnx"
# What a store may have in place of a version's file.
SPOILT: Final = ("flipped", "truncated", "missing", "unreadable")

# A version's manifest, whose files are not listed yet, and its ONNX file.
Make = Callable[[str], tuple[Manifest, bytes]]


@dataclass(frozen=True, slots=True)
class Artifacts:
    """Two models that take the same inputs and answer differently: versions are the one and the other by turns."""

    manifests: tuple[Manifest, ...]
    files: tuple[bytes, ...]

    def make(self, version: str) -> tuple[Manifest, bytes]:
        """A version, whose name is a number."""
        which = int(version) % 2
        return replace(self.manifests[which], version=version), stamped(self.files[which], f"version {version}")

    def expected(self, inputs: Mapping[str, Array], folder: Path) -> tuple[Array, ...]:
        """What each of the two answers: the first element of its first output for each row [rows]."""
        found = []
        for at, (manifest, data) in enumerate(zip(self.manifests, self.files, strict=True)):
            path = folder / f"expected-{at}.onnx"
            path.write_bytes(data)
            session = Session.open(path, manifest.signature, "cpu")
            first = session.run(inputs)[manifest.signature.outputs[0].name]
            found.append(np.asarray(first, np.float64).reshape(len(first), -1)[:, 0])
            session.close()
        return tuple(found)


def artifacts(model: str) -> Artifacts:
    """Those of the zoo, or of the model made here."""
    if model == FLIGHTS:
        zoo = Registry(ZOO)
        both = ("2", "1")
        return Artifacts(
            tuple(zoo.manifest(FLIGHTS, version) for version in both),
            tuple(zoo.artifact(FLIGHTS, version).read_bytes() for version in both),
        )
    files = tuple(mlp(_MADE_SIZES, seed) for seed in (1, 2))
    manifest = described(model, files[0])
    return Artifacts((manifest, manifest), files)


def described(model: str, data: bytes) -> Manifest:
    """The manifest of an ONNX file as it describes itself."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / ONNX).write_bytes(data)
        return Manifest(model, "1", (FileEntry.of(Path(folder), ONNX),), ONNX, signature_of(Path(folder) / ONNX))


def stamped(data: bytes, text: str) -> bytes:
    """The same ONNX model in other bytes: ModelProto.doc_string may come last, and the last one counts."""
    own = text.encode()
    if len(own) > 127:
        raise ValueError(f"expected at most 127 bytes, got {len(own)}")
    return data + bytes([0x32, len(own)]) + own


class Versions:
    """Adds versions to a store in a folder; their names are numbers from 1 on."""

    def __init__(self, store: Registry, make: Make) -> None:
        self._store = store
        self._make = make
        self._last = 0

    def add(self, stage: str = CANDIDATE) -> str:
        """The next version. A candidate serves only where control says so."""
        version, manifest, data = self._next(stage)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / ONNX).write_bytes(data)
            entry = FileEntry.of(Path(folder), ONNX)
            self._store.add(folder, replace(manifest, files=(entry,), entrypoint=ONNX))
        return version

    def add_spoilt(self, how: str) -> str:
        """A version that was right once, and whose file somebody has spoilt since: `how` is one of `SPOILT`.

        `unreadable` has the right checksum and is no model: what another writer may have put there.
        """
        if how == "unreadable":
            return self._add_unreadable()
        version = self.add()
        (entry,) = self._store.manifest(self._make(version)[0].name, version).files
        blob = Path(self._store.root) / ".blobs" / "sha256" / entry.sha256[:2] / entry.sha256
        data = bytearray(blob.read_bytes())
        if how == "missing":
            blob.unlink()
        elif how == "truncated":
            blob.write_bytes(data[: len(data) // 2])
        else:
            data[len(data) // 2] ^= 1
            blob.write_bytes(data)
        return version

    def _add_unreadable(self) -> str:
        version, manifest, data = self._next(CANDIDATE)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ONNX
            path.write_bytes(data[: len(data) // 2])
            entry = FileEntry.of(Path(folder), ONNX)
            wrong = replace(manifest, files=(entry,), entrypoint=ONNX)
            self._store.put(wrong, entry, lambda: iter([path.read_bytes()]))
            self._store.publish(wrong)
        return version

    def _next(self, stage: str) -> tuple[str, Manifest, bytes]:
        self._last += 1
        manifest, data = self._make(str(self._last))
        return str(self._last), replace(manifest, stage=stage), data
