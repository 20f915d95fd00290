"""How commands speak: tables and progress for people, one JSON document for programs, logs on stderr.

Nothing heavy is imported here: `sr-deploy --help` imports every command file.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console, RenderableType
    from rich.status import Status

_RARE_SECONDS = 10
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead of tables.")]


class Advance(Protocol):
    """Moves a progress bar."""

    def __call__(self, completed: float, note: str = "") -> None:
        """Set how much is done (of the bar's total), with a short note such as the present loss."""
        ...


class Output:
    """Where a command's words go."""

    def __init__(self, as_json: bool, *, silent: bool = False) -> None:
        """Where words go.

        Args:
            as_json: stdout is for one JSON document alone.
            silent: say nothing at all: another process speaks for this one.
        """
        self._as_json = as_json
        self._silent = silent
        self._clear_status: Callable[[], None] = lambda: None

    def show(self, renderable: RenderableType) -> None:
        """Print text or a table on stdout, unless JSON was asked for."""
        if not self._as_json and not self._silent:
            # Sentences hold commands and paths that people copy: a terminal may fold them, no line break is put in.
            _console().print(renderable, highlight=False, soft_wrap=isinstance(renderable, str))

    def log(self, line: str) -> None:
        """Print one line on stderr; what `status` shows is over."""
        self._clear_status()
        if not self._silent:
            print(line, file=sys.stderr, flush=True)

    def finish(self, document: BaseModel | Mapping[str, object]) -> None:
        """Print the command's result if JSON was asked for; call it once, at the end."""
        if not self._as_json or self._silent:
            return
        plain = document if isinstance(document, Mapping) else document.model_dump(mode="json")
        print(json.dumps(plain, indent=2))

    @contextmanager
    def status(self) -> Iterator[Callable[[str, float], None]]:
        """A line on stderr for work of unknown length: takes what is being done and the seconds it has taken.

        A terminal shows it in place until the next line of `log`; elsewhere it is a line of its own, every ten seconds
        at most.
        """
        if self._silent:
            yield lambda text, seconds: None
        elif sys.stderr.isatty():
            line = _LiveLine()
            self._clear_status = line.clear
            try:
                yield line.show
            finally:
                line.clear()
        else:
            yield _say_rarely(self.log)

    @contextmanager
    def progress(self, title: str, total: float) -> Iterator[Advance]:
        """A progress bar with time left on stderr, cleared when it ends.

        Where stderr is no terminal it prints a line every tenth of the way instead.
        """
        if self._silent:
            yield lambda completed, note="": None
        elif sys.stderr.isatty():
            yield from _bar(title, total)
        else:
            yield from _lines(title, total)


class _StderrLog(logging.Handler):
    """Prints each record as it stands, on what is stderr at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr, flush=True)


def show_runner_logs() -> None:
    """Let runners say on stderr what they do beside computing, as which backend `auto` takes and why."""
    logger = logging.getLogger("sr_deploy.runners")
    if not any(isinstance(handler, _StderrLog) for handler in logger.handlers):
        logger.addHandler(_StderrLog())
        logger.setLevel(logging.INFO)


def format_size(size_bytes: int) -> str:
    """As in `2.33 MB`, in powers of ten."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.2f} {unit}"
    return f"{size_bytes} bytes"


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    # Piped output keeps whole table rows: a reader of a log can scroll, a cut figure is lost.
    width = None if sys.stdout.isatty() or stderr else 120
    # Square brackets and colons are part of what is said (`sr-deploy[rtx]`, `torch:fp32`), never markup.
    return Console(stderr=stderr, width=width, markup=False, emoji=False)


class _LiveLine:
    """A line of a terminal that is rewritten in place."""

    def __init__(self) -> None:
        self._status: Status | None = None

    def show(self, text: str, _seconds: float) -> None:
        from rich.status import Status

        if self._status is None:
            self._status = Status(text, console=_console(stderr=True))
            self._status.start()
        else:
            self._status.update(text)

    def clear(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def _say_rarely(log: Callable[[str], None]) -> Callable[[str, float], None]:
    told = 0.0

    def tell(text: str, seconds: float) -> None:
        nonlocal told
        told = min(told, seconds)  # another piece of work has begun
        if seconds >= told + _RARE_SECONDS:
            told = seconds
            log(text)

    return tell


def _bar(title: str, total: float) -> Iterator[Advance]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(title),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=_console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda completed, note="": bar.update(task, completed=completed, description=note)


def _lines(title: str, total: float) -> Iterator[Advance]:
    import time

    started = time.monotonic()
    shown = 0

    def advance(completed: float, note: str = "") -> None:
        nonlocal shown
        tenth = int(10 * completed / total) if total else 10
        if tenth > shown:
            shown = tenth
            left = (time.monotonic() - started) * (total / completed - 1)
            print(
                f"{title}: {100 * completed / total:.0f} %, {left:.0f} s left{', ' + note if note else ''}",
                file=sys.stderr,
                flush=True,
            )

    yield advance
