"""Brings a version's files from a store to a folder of this machine, where ONNX Runtime can open them."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from models.errors import ArtifactError, StoreError
from models.folder import refuse_unlisted, verify_file
from models.manifest import FileEntry, Manifest

_INCOMING: Final = ".incoming"


class Cache:
    """Files under `<root>/<name>/<version>-<digest of the manifest>/`, each checked whenever it is asked for.

    Processes may share it. Nothing in it is needed: it can be deleted while nobody loads a model.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def artifact(self, manifest: Manifest, chunks: Callable[[FileEntry], Iterator[bytes]]) -> Path:
        """The path of a version's ONNX file, after what is missing or spoilt here was fetched and checked.

        Raises `ArtifactError` where a file is not what its entry says, `StoreError` where there is no room for it.
        """
        digest = hashlib.sha256(manifest.encoded()).hexdigest()[:16]
        folder = self.root / manifest.name / f"{manifest.version}-{digest}"
        for entry in manifest.files:
            try:
                verify_file(folder, manifest, entry)
            except ArtifactError:
                self._fetch(folder / entry.path, chunks(entry))
                verify_file(folder, manifest, entry)
        refuse_unlisted(folder, manifest)
        return folder / manifest.entrypoint

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
            raise StoreError(f"the cache of models {self.root} cannot be written: {error.strerror or error}") from error
        finally:
            with suppress(OSError):  # there is none where its folder could not be made
                scratch.unlink(missing_ok=True)
