"""stdout and stderr to which everything can be written.

All that a command says goes through here, that of libraries in Python too. What comes from files cannot act on the
terminal, a letter that the stream's encoding lacks is escaped, and a stream that fails (closed, a full disk, nobody
reads any more) ends no command.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, TextIO, cast

from sr_deploy.errors import InputError, OutputError
from sr_deploy.legible import make_legible


class SafeStream(io.TextIOBase):
    """A stream of text around another one."""

    def __init__(self, inner: TextIO | None, name: str, heir: SafeStream | None = None) -> None:
        """Around a stream.

        Args:
            inner: the stream; None: it was closed before the process began.
            name: for messages.
            heir: gets what this one cannot take any more.
        """
        self._inner = inner
        self._name = name
        self._heir = heir
        self._lock = threading.RLock()
        self._above: Callable[[str], None] | None = None
        self._waiting = ""
        self.failure: str | None = None if inner is not None else "it is closed"
        """Why nothing can be written any more; None: it can."""
        self.deserted = False
        """Whether that is because its reader has gone, as `head` does: that is nobody's fault, and nothing is said."""
        self._told = False

    def write(self, text: str) -> int:
        """Write text of any origin: each line is made legible."""
        lines = text.replace("\r\n", "\n").split("\n")
        legible = "\n".join(map(make_legible, lines))
        above = self._above
        if above is None:
            self.write_exactly(legible)
            return len(text)
        with self._lock:
            *whole, self._waiting = (self._waiting + legible).split("\n")
        for line in whole:  # not under the lock: who stands on the terminal has one of its own, and writes here
            above(line)
        return len(text)

    def write_exactly(self, text: str) -> None:
        """Write text that was made here, as with the escape sequences of a table's colors."""
        with self._lock:
            if self.failure is None:
                self._try(text)
            if self.failure is None or self.deserted or self._heir is None:
                return
            if not self._told:
                self._told = True
                self._heir.write_exactly(f"{self._name} cannot be written ({self.failure}); its text follows here:\n")
            self._heir.write_exactly(text)

    @contextmanager
    def lines_go(self, above: Callable[[str], None]) -> Iterator[None]:
        """Meanwhile hand whole lines to `above`: something stands on the terminal that they must not run into."""
        self._above = above
        try:
            yield
        finally:
            self._above = None
            left, self._waiting = self._waiting, ""
            self.write_exactly(left)

    @property
    def exact(self) -> TextIO:
        """The same stream for what makes its own escape sequences."""
        return cast("TextIO", _Exact(self))

    @property
    def buffer(self) -> BinaryIO:
        """For bytes.

        Raises:
            OutputError: it is closed.
        """
        if self._inner is None:
            raise OutputError(f"{self._name} is closed; leave it open for what is to be written there")
        return self._inner.buffer

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream inside."""
        return getattr(self._inner, "encoding", None) or "utf-8"

    def writable(self) -> bool:
        """It is."""
        return True

    def isatty(self) -> bool:
        """Whether a terminal shows it."""
        with suppress(ValueError):
            return self._inner is not None and self.failure is None and self._inner.isatty()
        return False

    def fileno(self) -> int:
        """The descriptor of the stream inside."""
        if self._inner is None:
            raise io.UnsupportedOperation("fileno")
        return self._inner.fileno()

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Who closes it closes nothing: the process speaks until it ends."""

    def _try(self, text: str) -> None:
        assert self._inner is not None
        encoding = self.encoding
        try:
            self._inner.write(text.encode(encoding, "backslashreplace").decode(encoding))
            self._inner.flush()
        except (OSError, ValueError) as error:  # ValueError: closed meanwhile
            self.deserted = isinstance(error, BrokenPipeError)
            self.failure = getattr(error, "strerror", None) or "it is closed"
            self._drop_the_rest()

    def _drop_the_rest(self) -> None:
        assert self._inner is not None
        _let_go_nowhere(self._inner)


class _Exact(io.TextIOBase):
    """Writes exactly."""

    def __init__(self, stream: SafeStream) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write_exactly(text)
        return len(text)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


def _let_go_nowhere(stream: TextIO) -> None:
    """What a broken stream still holds would fail again when Python ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


def flush_for_the_end() -> None:
    """Write what the process's streams still hold, or let it go: after this Python has nothing to complain of."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                _let_go_nowhere(stream)


def stdin_bytes() -> BinaryIO:
    """The process's stdin.

    Raises:
        InputError: it is closed.
    """
    if sys.stdin is None:
        raise InputError("stdin is closed; leave it open for the frames that are to be read there")
    return sys.stdin.buffer


def stdout() -> SafeStream:
    """The process's stdout."""
    return sys.stdout if isinstance(sys.stdout, SafeStream) else SafeStream(sys.stdout, "stdout", stderr())


def stderr() -> SafeStream:
    """The process's stderr; what it cannot take is lost."""
    return sys.stderr if isinstance(sys.stderr, SafeStream) else SafeStream(sys.stderr, "stderr")


@contextmanager
def safe_streams() -> Iterator[None]:
    """Let all that Python writes to stdout and stderr go through `SafeStream` meanwhile."""
    before = sys.stdout, sys.stderr
    sys.stderr = stderr()
    sys.stdout = stdout()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def open_missing_descriptors() -> None:
    """Open those of stdin, stdout and stderr that are closed on nothing.

    Else the next file that is opened would get their number, and what a library prints would land in it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
