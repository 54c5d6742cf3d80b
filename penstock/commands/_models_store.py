"""What the commands of `penstock models` have in common: the store, and how its failures end them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from penstock import console

if TYPE_CHECKING:
    from models.registry import Registry

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]
Name = Annotated[str, typer.Argument(help="Model.")]


def store() -> Registry:
    """The registry of the settings. Raises `ArtifactError`."""
    from penstock.model_store import open_store

    return open_store(console.settings().models)


@contextmanager
def failing_in_one_line() -> Iterator[None]:
    """What the caller can mend is exit status 2; a store or broker that does not answer, or a lost race, is 1."""
    from models.errors import ModelError, StoreError
    from producers.errors import BrokerUnavailableError, ControlConflictError

    try:
        yield
    except (StoreError, BrokerUnavailableError, ControlConflictError) as error:
        console.fail(str(error), code=1)
    except (ModelError, OSError) as error:
        console.fail(str(error))
