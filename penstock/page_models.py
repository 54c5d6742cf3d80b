"""What the model store says of its versions, for the page: `analytics` knows no model store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from analytics.dashboard.models import Version
from models.errors import ModelError
from models.store import Store

if TYPE_CHECKING:
    from models.manifest import Manifest
    from models.specs import TensorSpec


def versions_in(store: Store) -> Callable[[], list[Version]]:
    """Reads the store anew each time; a version that cannot be read says why."""
    return lambda: list(_versions(store))


def _versions(store: Store) -> Iterator[Version]:
    for name in store.names():
        some = store.versions(name)
        for version in some:
            newest = version == some[-1]
            try:
                manifest = store.manifest(name, version)
            except ModelError as error:
                yield Version(name, version, newest, (), (), 0, 0, {}, {}, {}, str(error))
            else:
                yield _version(manifest, newest)


def _version(manifest: Manifest, newest: bool) -> Version:
    signature = manifest.signature

    def shown(specs: tuple[TensorSpec, ...]) -> tuple[str, ...]:
        return tuple(f"{one.name} {one.datatype} {'×'.join(map(str, one.shape))}" for one in specs)

    return Version(
        manifest.name,
        manifest.version,
        newest,
        shown(signature.inputs),
        shown(signature.outputs),
        len(signature.features),
        sum(one.size for one in manifest.files),
        manifest.metrics,
        manifest.profile,
        manifest.lineage,
    )
