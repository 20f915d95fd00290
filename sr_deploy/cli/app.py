"""The Typer application: every command, registered by name."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Sequence
from typing import Annotated, cast

import typer
import typer.core
import typer.main

from sr_deploy.cli.net import USAGE
from sr_deploy.errors import InputError

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


def run_words(words: Sequence[str]) -> int:
    """Run the command that `words` call; its exit code.

    Raises:
        Everything that the command does, and Typer's own error for a wrong call.
    """
    command = build_command()
    try:
        # Not the application itself: it prints, and ends the process, for some exceptions.
        with command.make_context("sr-deploy", list(words) or ["--help"]) as context:
            require_working_folder()
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code if words else USAGE
    return 0


@functools.cache
def build_command() -> typer.core.TyperGroup:
    """Every command, ready to be called. Made once: it takes longer than many a command."""
    return cast(typer.core.TyperGroup, typer.main.get_command(build_app()))


def build_app() -> typer.Typer:
    """The Typer application with every command."""
    app = typer.Typer(
        name="sr-deploy",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_root)
    for name in _COMMANDS:
        module = importlib.import_module(f"sr_deploy.cli.{name}")
        app.command(name)(getattr(module, name))
    return app


def require_working_folder() -> None:
    """Check that there is one: relative paths, and half of all libraries, need it.

    Raises:
        InputError: it was removed.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise InputError(
            f"the working folder cannot be found ({error.strerror}): it was removed, or may not be entered; change to "
            "another one (cd) and run the command there"
        ) from error


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
