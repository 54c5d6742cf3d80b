"""Opens the registry of models that the settings name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import ArtifactError
from models.registry import Registry

if TYPE_CHECKING:
    from penstock.settings import ModelSettings


def open_store(settings: ModelSettings, *, must_exist: bool = False) -> Registry:
    """The registry. Raises `ArtifactError` where a folder `must_exist` and does not, or its URL cannot be spoken to."""
    store = Registry(settings.store, settings.cache, cache_limit=settings.cache_size)
    if must_exist and "://" not in settings.store and not Path(settings.store).is_dir():
        raise ArtifactError(f"models.store = {settings.store!r}: there is no such folder")
    return store
