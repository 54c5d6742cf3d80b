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
        sys.exit(_run(build()))
    except KeyboardInterrupt:
        typer.echo("penstock: stopped", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has seen enough (`| head`); Python would complain at its exit.
        sys.stderr.close()
        sys.exit(0)


def _run(app: typer.Typer) -> int:
    """The exit status; what Typer and librdkafka have to say against the command line comes out as one line."""
    try:
        return int(app(standalone_mode=False) or 0)
    except typer.TyperException as error:
        message = " ".join(error.format_message().split()).removesuffix(".")
        if message:  # without a command it is the help, printed already
            context = getattr(error, "ctx", None)
            hint = f"; see {context.command_path} --help" if context is not None else ""
            message = message.replace("Value error, ", "").replace("Input should be", "expected")
            typer.echo(f"penstock: {message}{hint}", err=True)
        return error.exit_code
    except typer.Abort:
        return 1
    except Exception as error:
        framing = sys.modules.get("schemas.framing")  # neither was loaded by every command, and they take their time
        if framing is not None and isinstance(error, framing.RegistryUnavailableError):
            typer.echo(f"penstock: {' '.join(str(error).split())}", err=True)
            return 1
        kafka = sys.modules.get("confluent_kafka")
        if kafka is None or not isinstance(error, kafka.KafkaException):
            raise
        about = error.args[0]
        typer.echo(f"penstock: Kafka: {' '.join(about.str().split())}", err=True)
        # A client that could not even be made: its properties are wrong together, though each is right alone.
        return 2 if about.code() == kafka.KafkaError._INVALID_ARG else 1


if __name__ == "__main__":
    main()
