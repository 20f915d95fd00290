"""The command line: one file per command, registered here."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from sr_deploy.cli.output import show_runner_logs
from sr_deploy.errors import SrDeployError

_COMMANDS = (
    "train",
    "export",
    "build",
    "verify",
    "bench",
    "upscale",
    "evaluate",
    "interpolate",
    "degrade",
    "info",
    "doctor",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"sr-deploy {version('sr-deploy')}")
        raise typer.Exit


def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """From a super-resolution network to a deployment that proves itself: train, export, verify, bench."""


def build_app() -> typer.Typer:
    """The Typer application with every command."""
    import importlib

    app = typer.Typer(
        name="sr-deploy",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_root)
    for name in _COMMANDS:
        module = importlib.import_module(f"sr_deploy.cli.{name}")
        app.command(name)(getattr(module, name))
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: words after `sr-deploy`; those of the process if None.

    Returns:
        0 done, 1 the user's input or machine, 2 usage, 3 verification failed or regression found, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    show_runner_logs()
    try:
        build_app()(args=words)
    except SrDeployError as error:
        return _fail(error, "--json" in words)
    except MemoryError as error:
        return _fail(
            SrDeployError(f"not enough memory: {error}; use a smaller shape, picture or tile"), "--json" in words
        )
    except SystemExit as stop:  # Typer ends every run so, with 2 for wrong usage
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def _fail(error: SrDeployError, as_json: bool) -> int:
    line = " ".join(str(error).split())  # one line, whatever a library put into its message
    print(f"error: {line}", file=sys.stderr)
    if as_json:
        print(
            json.dumps(
                {"error": {"kind": type(error).__name__, "message": line, "exit_code": error.exit_code}}, indent=2
            )
        )
    return error.exit_code


def run() -> None:
    """Entry point of the `sr-deploy` script."""
    sys.exit(main())
