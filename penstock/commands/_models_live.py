"""`penstock models promote | rollback | remove | collect`: which version serves, and which are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from penstock import console
from penstock.commands._models_store import AsJson, Name, failing_in_one_line, store

if TYPE_CHECKING:
    from penstock.live_models import Change, LiveModels

# A list of models is wanted also where no broker answers.
_STAGES_SECONDS: Final = 1.0


def register(group: typer.Typer) -> None:
    """Add the commands."""
    for command in (promote, rollback, remove, collect):
        group.command()(command)


def promote(
    name: Name,
    version: Annotated[str, typer.Argument(help="Version.")],
    expect: Annotated[str | None, typer.Option(help="Only where this version is live now.")] = None,
    new_signature: Annotated[
        bool, typer.Option("--new-signature", help="Although callers of the live version would have to change.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Let a version serve all requests that name none, after its files were verified. Workers load it, then switch."""
    with failing_in_one_line():
        done = _live_models().promote(name, version, new_signature=new_signature, expect=expect)
    _tell(done, as_json)


def rollback(name: Name, as_json: AsJson = False) -> None:
    """Go back to the last good version: the one that was live before and was not itself rolled back from."""
    with failing_in_one_line():
        done = _live_models().rollback(name)
    _tell(done, as_json)


def remove(
    name: Name,
    version: Annotated[str, typer.Argument(help="Version.")],
    force: Annotated[
        bool,
        typer.Option("--force", help="Also the newest, and one that a stopped experiment names; never one in use."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Take a version out of the registry, unless it is live, in an experiment or in a rollout. Its name stays taken."""
    with failing_in_one_line():
        _, overridden = _live_models().remove(name, version, force=force)
        gone, size = _collected()
    if as_json:
        used = [one.what for one in overridden]
        console.print_json({"model": name, "version": version, "done": "removed", "used_by": used, "freed_bytes": size})
    else:
        console.note(f"{name} {version} removed; {gone} files ({size:,} bytes) that nothing else needed were deleted")


def collect(
    older_than_hours: Annotated[
        float, typer.Option(min=0, help="Younger ones may belong to a version that is being added.")
    ] = 24.0,
    as_json: AsJson = False,
) -> None:
    """Delete files that no version needs: of removed versions, and of adds that were broken off."""
    with failing_in_one_line():
        gone, size = store().collect(older_than_hours * 3600)
    if as_json:
        console.print_json({"files": gone, "bytes": size})
    else:
        console.note(f"{gone} files deleted, {size:,} bytes")


def _collected() -> tuple[int, int]:
    """What `collect` deleted; where it cannot, the version is gone all the same."""
    from models.errors import ModelError

    try:
        return store().collect()
    except ModelError as error:
        console.note(f"files that nothing needs were not deleted: {error}")
        return 0, 0


def stages() -> tuple[dict[tuple[str, str], str], str]:
    """What control says of versions, and why nothing where it does not answer."""
    from models.errors import ModelError
    from producers.errors import BrokerUnavailableError

    try:
        return _live_models(_STAGES_SECONDS).stages(), ""
    except (BrokerUnavailableError, ModelError) as error:
        return {}, str(error)


def _live_models(timeout: float = 15.0) -> LiveModels:
    from penstock.live_models import LiveModels
    from penstock.model_store import open_store
    from producers.control import ControlTopic

    settings = console.settings()
    topic = ControlTopic(settings.kafka.client(), settings.codec(), settings.kafka.topics.control, timeout=timeout)
    return LiveModels(topic, open_store(settings.models))


def _tell(done: Change, as_json: bool) -> None:
    if as_json:
        console.print_json(
            {"model": done.model, "version": done.version, "before": done.before, "revision": done.revision}
        )
    else:
        console.note(f"{done.model}: version {done.version} serves, after {done.before}")
