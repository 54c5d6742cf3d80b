"""`penstock plan`: what a model and a load need before they are there, memory and devices."""

from __future__ import annotations

import typer

from penstock.commands import _plan_capacity, _plan_memory


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Plan ahead: memory of a model, devices for a load.", no_args_is_help=True)
    _plan_memory.register(group)
    _plan_capacity.register(group)
    app.add_typer(group, name="plan")
