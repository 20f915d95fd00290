"""How commands speak: tables and progress for people, one JSON document for programs, logs on stderr.

What is shown may come from anywhere: no text is a format string or markup, and each is made legible here, once. Only
the JSON document has it as it is, in JSON's own escapes. Nothing heavy is imported here: `sr-deploy --help` imports
every command file.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sr_deploy.cli.streams import SafeStream, stderr, stdout
from sr_deploy.errors import OutputError
from sr_deploy.legible import make_legible

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from sr_deploy.progress import OnProgress, Progress

_RARE_SECONDS = 10
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead of tables.")]


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

    def show(self, *parts: str | Table) -> None:
        """Print lines and tables on stdout, unless JSON was asked for. A line break inside a line is escaped."""
        if self._as_json or self._silent:
            return
        for part in parts:
            # Sentences hold commands and paths that people copy: a terminal may fold them, no line break is put in.
            _console(stdout()).print(part, highlight=False, soft_wrap=isinstance(part, str))

    def log(self, line: str) -> None:
        """Print one line on stderr."""
        if not self._silent:
            stderr().write(make_legible(line) + "\n")

    def finish(self, document: BaseModel | Mapping[str, object]) -> None:
        """Print the command's result if JSON was asked for; call it once, at the end.

        Raises:
            OutputError: stdout cannot be written, and somebody is there to read it.
        """
        if not self._as_json or self._silent:
            return
        plain = document if isinstance(document, Mapping) else document.model_dump(mode="json")
        stream = stdout()
        stream.write_exactly(json.dumps(plain, indent=2) + "\n")
        if stream.failure is not None and not stream.deserted:
            raise OutputError(
                f"the JSON document could not be written to stdout ({stream.failure}); what the command was to do is "
                "done, and the document is above"
            )

    @contextmanager
    def status(self) -> Iterator[OnProgress]:
        """A line on stderr for work of unknown length.

        A terminal shows it in place until the next line on stderr; elsewhere it is a line of its own, every ten seconds
        at most.
        """
        if self._silent:
            yield lambda _: None
        elif stderr().isatty():
            line, stream = _LiveLine(), stderr()

            def give_way(said: str) -> None:
                line.clear()
                stream.write_exactly(said + "\n")

            with stream.lines_go(above=give_way):
                try:
                    yield line.show
                finally:
                    line.clear()
        else:
            yield _say_rarely(self.log)

    @contextmanager
    def progress(self, title: str) -> Iterator[OnProgress]:
        """A progress bar with time left on stderr, cleared when it ends, for work whose total is known.

        Where stderr is not a terminal it prints a line every tenth of the way instead.
        """
        if self._silent:
            yield lambda _: None
        elif stderr().isatty():
            yield from _bar(title)
        else:
            yield _say_tenths(title)


def format_size(size_bytes: int) -> str:
    """As in `2.33 MB`, in powers of ten."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.2f} {unit}"
    return f"{size_bytes} bytes"


def _console(stream: SafeStream) -> Console:
    # Piped output keeps whole table rows: a reader of a log can scroll, a cut figure is lost.
    width = None if stream.isatty() else 120
    # Square brackets and colons are part of what is said (`sr-deploy[rtx]`, `torch:fp32`), never markup.
    return _console_class()(file=stream.exact, width=width, markup=False, emoji=False)


@functools.cache
def _console_class() -> type[Console]:
    """Made once something is shown: rich is not imported before."""
    from rich.console import Console
    from rich.text import Text

    class LegibleConsole(Console):
        """Every text that rich is given passes here: lines, cells, headings and titles of tables."""

        def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401
            return super().render_str(make_legible(text), **options)

    return LegibleConsole


class _LiveLine:
    """A line of a terminal that is rewritten in place."""

    def __init__(self) -> None:
        self._live: Live | None = None

    def show(self, progress: Progress) -> None:
        from rich.live import Live
        from rich.spinner import Spinner
        from rich.text import Text

        spinner = Spinner("dots", Text(make_legible(_describe(progress))))  # a string would be read as markup
        if self._live is None:
            console = _console(stderr())
            self._live = Live(
                spinner, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
            )  # fmt: skip
            self._live.start()
        else:
            self._live.update(spinner)

    def clear(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def _describe(progress: Progress) -> str:
    """For work of unknown length."""
    if progress.unit == "s":
        return f"{progress.stage}, {progress.done:.0f} s so far"
    return f"{progress.done:.0f} {progress.unit}, {progress.stage}"


def _say_rarely(log: Callable[[str], None]) -> OnProgress:
    import time

    started, told = time.monotonic(), 0.0

    def show(progress: Progress) -> None:
        nonlocal told
        seconds = progress.done if progress.unit == "s" else time.monotonic() - started
        told = min(told, seconds)  # another piece of work has begun
        if seconds >= told + _RARE_SECONDS:
            told = seconds
            log(_describe(progress))

    return show


def _find_note(title: str, progress: Progress) -> str:
    """What a progress says beyond the title."""
    return "" if f"{title} ".startswith(f"{progress.stage} ") else progress.stage


def _bar(title: str) -> Iterator[OnProgress]:
    from rich import progress as rich_progress

    columns = (
        rich_progress.TextColumn("{task.fields[title]}", markup=False),
        rich_progress.BarColumn(),
        rich_progress.TextColumn("{task.percentage:>3.0f} %"),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.description}", markup=False),
    )
    stream = stderr()
    console = _console(stream)
    with (
        rich_progress.Progress(
            *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
        ) as bar,
        stream.lines_go(above=lambda line: console.print(line, highlight=False, soft_wrap=True)),
    ):
        task = bar.add_task("", total=1, title=make_legible(title))

        def show(progress: Progress) -> None:
            note = make_legible(_find_note(title, progress))
            bar.update(task, total=progress.total, completed=progress.done, description=note)

        yield show


def _say_tenths(title: str) -> OnProgress:
    import time

    started = time.monotonic()
    shown = 0

    def show(progress: Progress) -> None:
        nonlocal shown
        done, total, note = progress.done, progress.total or 0.0, _find_note(title, progress)
        tenth = int(10 * done / total) if total else 0
        if tenth > shown:
            shown = tenth
            left = (time.monotonic() - started) * (total / done - 1)
            line = f"{title}: {100 * done / total:.0f} %, {left:.0f} s left{', ' + note if note else ''}"
            stderr().write(make_legible(line) + "\n")

    return show
