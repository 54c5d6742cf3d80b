"""What everybody who serves or describes models needs of a store, whichever it is."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from models.manifest import Manifest


class Store(Protocol):
    """Versions of models, to be read: a plain folder (`models.folder`) or a registry (`models.registry`)."""

    @property
    def root(self) -> str | Path:
        """Where it is, for messages."""

    @property
    def is_remote(self) -> bool:
        """Whether a look into it takes long, and costs."""

    def names(self) -> list[str]:
        """Models that have a version, sorted. Raises `StoreError`."""

    def versions(self, name: str) -> list[str]:
        """A model's versions in natural order. Raises `UnknownModelError`, `StoreError`."""

    def default_version(self, name: str) -> str:
        """The version that serves where nobody names one. Raises `UnknownModelError`, `ArtifactError`."""

    def manifest(self, name: str, version: str) -> Manifest:
        """What a version says about itself. Raises `ArtifactError`."""

    def artifact(self, name: str, version: str) -> Path:
        """Its ONNX file on this machine, every file of it verified. Raises `ArtifactError`."""

    def release(self, name: str, version: str) -> None:
        """What `artifact` gave is in use no more."""
