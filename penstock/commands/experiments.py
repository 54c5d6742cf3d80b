"""`penstock experiments`: an experiment from its plan to its decision."""

from __future__ import annotations

import typer

from penstock.commands import _experiment_decide


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Experiments: look at them, decide.", no_args_is_help=True)
    _experiment_decide.register(group)
    app.add_typer(group, name="experiments")
