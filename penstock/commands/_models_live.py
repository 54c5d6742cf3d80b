"""`penstock models rollback | remove | collect`: which version serves, and which are kept."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from penstock import console
from penstock.commands._models_control import live_models, shown, tell, worker_states, workers_lines
from penstock.commands._models_store import AsJson, Name, failing_in_one_line, store

# A list of models is wanted also where no broker answers.
_STAGES_SECONDS: Final = 1.0
# Kafka has answered by then; the embedded broker takes a while to say that a topic is read to its end.
_STATES_SECONDS: Final = 10.0


def register(group: typer.Typer) -> None:
    """Add the commands."""
    for command in (rollback, remove, collect):
        group.command()(command)


def rollback(name: Name, as_json: AsJson = False) -> None:
    """End a rollout that is on; else go back to the last good version: live before, and not rolled back from."""
    with failing_in_one_line():
        done = live_models().rollback(name)
    tell(done, as_json)


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
        _, overridden = live_models().remove(name, version, force=force)
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
        return live_models(_STAGES_SECONDS).stages(), ""
    except (BrokerUnavailableError, ModelError) as error:
        return {}, str(error)


def live_state(name: str) -> dict[str, Any]:
    """The last rollout of a model and what workers say of it, as JSON; nothing, and a note, without Kafka."""
    from models.errors import ModelError
    from producers.errors import BrokerUnavailableError

    try:
        found, _ = live_models(_STAGES_SECONDS).rollout(name)
        workers = workers_lines(name, worker_states(_STATES_SECONDS))
    except (BrokerUnavailableError, ModelError) as error:
        console.note(f"its rollout and the workers' times are not shown: {error}")
        return {}
    return {"rollout": None if found is None else shown(found), "workers": workers}
