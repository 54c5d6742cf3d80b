"""Whether the fallback that a version declares is there, and can answer in its place."""

from __future__ import annotations

from typing import Protocol

from models.compatibility import signature_change
from models.errors import ArtifactError, StoreError
from models.manifest import Manifest
from models.signature import Signature


class Manifests(Protocol):
    """What is needed of a store."""

    def manifest(self, name: str, version: str) -> Manifest:
        """What a version says about itself. Raises `UnknownModelError`, `ManifestError`, `StoreError`."""


def check_fallback(store: Manifests, manifest: Manifest) -> None:
    """Raise `ArtifactError` where a version's fallback is not in the store, or cannot answer its callers."""
    named = manifest.fallback_version
    if named is None:
        return
    what = f"model {manifest.name} {manifest.version}: its fallback {manifest.fallback}"
    try:
        other = store.manifest(*named)
    except StoreError:
        raise
    except ArtifactError as error:
        raise ArtifactError(f"{what} cannot be had: {error}") from None
    if fault := fallback_fault(manifest.signature, other.signature):
        raise ArtifactError(f"{what} cannot answer its callers: {fault}")


def fallback_fault(wanted: Signature, fallback: Signature) -> str:
    """Why inputs made for `wanted` cannot be scored by `fallback`, or its answers not be read; "" where they can.

    More than callers see must be the same: features were put into tensors by `wanted` when a fallback gets them.
    """
    if change := signature_change(wanted, fallback):
        return change
    if wanted.features != fallback.features:
        return "it orders or encodes its features otherwise"
    if wanted.allow_nan and not fallback.allow_nan:
        return "it takes no NaN"
    return ""
