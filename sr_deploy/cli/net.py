"""The last net under every command: whatever happens ends in one line and an exit code.

Errors that were foreseen say it themselves. Of any other exception the type, the message and the place are told, with
the request to report it; the traceback is there for who sets `SR_DEPLOY_TRACEBACK=1`.
"""

from __future__ import annotations

import _thread
import faulthandler
import json
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import TextIO

from sr_deploy.cli.streams import safe_streams, stderr, stdout
from sr_deploy.errors import SrDeployError, describe_surprise
from sr_deploy.legible import make_legible, shorten

INTERRUPTED = 130
"""Exit code of a command that a signal ended."""
USAGE = 2
"""Exit code of a command that was called wrongly."""
_REPEATING = ("pyvips",)
"""Loggers whose warnings say over what an error says, or what is harmless."""
_AGAIN_SECONDS = 0.05
_INTERRUPTION = "interrupted; what was finished before is kept"


class _Interruption:
    """SIGINT and SIGTERM while a command runs."""

    def __init__(self) -> None:
        self.came = False
        """Whether one came: whatever was raised afterwards is its consequence."""
        self.over = False
        """Whether the command is done, and there is nothing left to interrupt but the end of the process."""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Raise KeyboardInterrupt for either; Python lets only the main thread listen."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.getsignal(number) for number in numbers}
        wanted = [number for number in numbers if before[number] is not signal.SIG_IGN]  # nohup and `&` ignore them
        try:
            for number in wanted:
                signal.signal(number, self._note)
            yield
        finally:
            for number in wanted:
                signal.signal(number, before[number] if before[number] is not None else signal.SIG_DFL)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self.over:
            os._exit(INTERRUPTED)
        self.came = True
        raise KeyboardInterrupt


def run_guarded(command: Callable[[], int], *, as_json: bool) -> int:
    """Run a command, with its own streams, signals and hooks.

    Args:
        command: gives its exit code.
        as_json: on failure stdout gets a document that says so.

    Returns:
        The command's exit code, or that of what it raised; 130 if a signal ended it.
    """
    interruption = _Interruption()
    with ExitStack() as stack:
        try:
            stack.enter_context(safe_streams())
            stack.enter_context(_quiet_hooks())
            stack.enter_context(interruption.listening())
            code = command()
            interruption.over = True
        except BaseException as error:  # noqa: BLE001 - the process ends here, whatever it was
            interruption.over = True
            code = _report_surely(error, interrupted=interruption.came, as_json=as_json)
        return code


def wants_traceback() -> bool:
    """Whether the user asked for tracebacks."""
    return os.environ.get("SR_DEPLOY_TRACEBACK", "") not in ("", "0")


def _report_surely(error: BaseException, *, interrupted: bool, as_json: bool) -> int:
    try:
        return _report(error, interrupted=interrupted, as_json=as_json)
    except Exception:  # noqa: BLE001 - an exception that cannot say what it is
        stderr().write(f"error: internal: {type(error).__name__}\n")
        return 1


def _report(error: BaseException, *, interrupted: bool, as_json: bool) -> int:
    """Say what happened, in one line; its exit code."""
    if wants_traceback():
        stderr().write("".join(traceback.format_exception(error)))
    if isinstance(error, SystemExit) and not isinstance(error.code, str) and not interrupted:
        return error.code if isinstance(error.code, int) else 0
    kind, message, code = ("Interrupted", _INTERRUPTION, INTERRUPTED) if interrupted else _describe(error)
    line = shorten(" ".join(message.split()))  # one line, whatever a library put into its message
    usage = _describe_usage(error) if code == USAGE else ""
    stderr().write(f"{usage}error: {line}\n")
    if as_json:
        document = {"error": {"kind": kind, "message": line, "exit_code": code}}
        stdout().write_exactly(json.dumps(document, indent=2) + "\n")
    return code


def _describe(error: BaseException) -> tuple[str, str, int]:
    """Kind, message and exit code."""
    kind = type(error).__name__
    if isinstance(error, SrDeployError):
        return kind, str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):  # without a signal of ours, as a test or a library raises it
        return "Interrupted", _INTERRUPTION, INTERRUPTED
    if isinstance(error, MemoryError):
        return "SrDeployError", f"not enough memory: {error}; use a smaller shape, picture or tile", 1
    format_message = getattr(error, "format_message", None)
    if getattr(error, "exit_code", None) == USAGE and format_message is not None:  # Typer's; its class is not public
        return kind, str(format_message()), USAGE
    if isinstance(error, SystemExit):
        return kind, str(error.code), 1
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        # The system's word on a path that was given: too long, in a folder that nobody may enter, on a lost disk.
        return "InputError", f"cannot use {error.filename}: {error.strerror}; give another path", 1
    return kind, describe_surprise(error), 1


def _describe_usage(error: BaseException) -> str:
    """How the command is called, in front of what was wrong with the call."""
    context = getattr(error, "ctx", None)
    if context is None:
        return ""
    return f"{context.get_usage()}\nTry '{context.command_path} {context.help_option_names[0]}' for help.\n\n"


@contextmanager
def _quiet_hooks() -> Iterator[None]:
    """One line for what Python, its logging and its warnings would print with tracebacks and lines of source."""
    before = threading.excepthook, sys.unraisablehook, warnings.showwarning
    threading.excepthook = _tell_thread
    sys.unraisablehook = _tell_unraisable
    warnings.showwarning = _tell_warning
    root, ours, handler = logging.getLogger(), logging.getLogger("sr_deploy"), _LogLines()
    level = ours.level
    root.addHandler(handler)
    ours.setLevel(logging.INFO)  # what is being done, as which backend `auto` takes and why
    if wants_traceback() and not faulthandler.is_enabled():
        with suppress(OSError, ValueError):  # no stderr
            faulthandler.enable(stderr().fileno())
    try:
        yield
    finally:
        root.removeHandler(handler)
        ours.setLevel(level)
        threading.excepthook, sys.unraisablehook, warnings.showwarning = before


class _LogLines(logging.Handler):
    """Prints records of ours as they stand, and those of libraries if they are warnings; never a traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        ours = record.name.startswith("sr_deploy.")
        least = logging.ERROR if record.name.startswith(_REPEATING) else logging.WARNING
        if ours or record.levelno >= least:
            with suppress(Exception):  # a library's record whose arguments do not fit its message
                line = record.getMessage()
                stderr().write((make_legible(line) if ours else " ".join(line.split())) + "\n")


def _tell_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_type is SystemExit or arguments.exc_value is None:
        return
    _tell_aside(arguments.exc_value, f"in a thread ({arguments.thread.name if arguments.thread else 'unknown'})")


def _tell_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    error = unraisable.exc_value
    if isinstance(error, KeyboardInterrupt):
        threading.Timer(_AGAIN_SECONDS, _interrupt_again).start()  # it came where nothing can be raised
    elif error is not None and wants_traceback():
        _tell_aside(error, "where nothing can be raised")


def _interrupt_again() -> None:
    if hasattr(signal, "pthread_kill"):  # wakes the main thread where it waits, too
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()


def _tell_aside(error: BaseException, where: str) -> None:
    if wants_traceback():
        stderr().write("".join(traceback.format_exception(error)))
    stderr().write(f"error: {where}: {describe_surprise(error)}\n")


def _tell_warning(  # noqa: PLR0917 - as the standard library calls it
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    stderr().write(f"warning: {' '.join(str(message).split())} ({category.__name__})\n")
