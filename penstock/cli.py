"""The command line's frame: finds the commands in `penstock.commands` and turns what goes wrong into a line."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from typing import Annotated

import typer

import penstock.commands
from penstock import console

EPILOG = "Every command takes --help. Results go to standard output, progress and logs to standard error."


def build() -> typer.Typer:
    """The application with every command that a module of `penstock.commands` registers.

    Each defines `register(app)` and imports what is heavy (chDB, ONNX Runtime, pyarrow) only when its command runs.
    """
    app = typer.Typer(
        name="penstock",
        help="Event-driven streaming inference: Kafka in, ONNX Runtime in the middle, replies and evidence out.",
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    for module in sorted(one.name for one in pkgutil.iter_modules(penstock.commands.__path__)):
        if not module.startswith("_"):
            importlib.import_module(f"penstock.commands.{module}").register(app)
    return app


def _options(
    config: Annotated[
        str | None,
        typer.Option(help="The file of settings; else PENSTOCK_CONFIG, else penstock.toml where there is one."),
    ] = None,
) -> None:
    console.use_config(config)


def main() -> None:
    """Run the command line. Exit status: 0 done, 1 failed, 2 the caller can mend it, 130 Ctrl-C."""
    try:
        build()(standalone_mode=True)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has seen enough (`| head`); Python would complain at its exit.
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
