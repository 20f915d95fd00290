"""Pictures written row by row, from top to bottom, with no more than some rows in memory.

libvips pulls: its encoders ask a loader for rows. The loader that takes rows as they are made, of every depth and
number of channels, is that of PNG. So rows go to it as a PNG file that is not compressed, through a source that waits
for them, and its encoder writes what it reads there into the file. PNG files themselves are made without it (`png`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from sr_deploy.deps import require
from sr_deploy.errors import ImageError, OutputError
from sr_deploy.files import replacing_file
from sr_deploy.imaging.encoding import prepare_encoding, round_to_8bit
from sr_deploy.imaging.formats import BY_ROWS, Format, find_format, find_losses, require_output_size, require_quality
from sr_deploy.imaging.header import Header
from sr_deploy.imaging.opening import Pixels
from sr_deploy.imaging.png import make_png
from sr_deploy.imaging.vips_errors import describe_failure


def require_by_rows(path: Path) -> None:
    """Check that the format of `path` can be written row by row.

    Raises:
        ImageError: unknown suffix, or a format whose encoder takes whole pictures.
    """
    form = find_format(path)
    if not form.by_rows:
        able = ", ".join(other.suffixes[0] for other in BY_ROWS)
        raise ImageError(f"cannot write {path} row by row: {form.name} is encoded whole; write {able}")


@contextlib.contextmanager
def open_row_writer(path: Path, header: Header, quality: int | None = None) -> Iterator[RowWriter]:
    """Write a picture whose rows come one after the other; the file is there once the block has ended well.

    Args:
        path: takes the place of what was there, once complete.
        header: of the picture.
        quality: as of `write_decoded`.

    Raises:
        ImageError: unknown suffix, or one that is not written row by row, or sides or transparency that the format
            cannot hold.
        InputError: a quality outside 1 to 100, or for a format without loss.
        OutputError: cannot be written; nothing is left behind.
    """
    require_by_rows(path)
    form = find_format(path)
    require_quality(path, quality)
    require_output_size(path, header.width, header.height)
    find_losses(header, path)
    with (
        replacing_file(path) as temporary,
        temporary.open("wb+") as stream,
        ThreadPoolExecutor(1, "encode") as thread,
    ):
        rows = _RowSource(header, 8 if form.bits == 8 else header.bits)
        file = _FileTarget(stream)
        encoding = thread.submit(_encode, rows, file, header, form, quality)
        encoding.add_done_callback(lambda _: rows.go_on())
        writer = RowWriter(path, header.height, rows, file, encoding)
        try:
            yield writer
            writer.finish()
        finally:
            rows.end()  # whatever happened, nobody waits for more


class RowWriter:
    """Takes the rows of a picture; see `open_row_writer`."""

    def __init__(self, path: Path, height: int, rows: _RowSource, file: _FileTarget, encoding: Future[None]) -> None:
        self._path = path
        self._height = height
        self._given = 0
        self._rows = rows
        self._file = file
        self._encoding = encoding

    def write(self, rows: Pixels) -> None:
        """Hand over the next rows, which may not change after; waits until those before them are encoded.

        Args:
            rows: n x W x C, C with alpha where there is one, 8 or 16 bit as the header says.

        Raises:
            OutputError: what came before could not be written.
            OSError: the same, where `open_row_writer` still puts it into words.
        """
        self._rows.wait()
        if self._encoding.done():
            self.finish()
        self._given += len(rows)
        self._rows.put(rows)

    def finish(self) -> None:
        """Wait for the end of the file.

        Raises:
            OutputError: it could not be written, or another number of rows came than the header says.
            OSError: as `write`.
        """
        pyvips = require("pyvips", "writing pictures")
        self._rows.end()
        try:
            self._encoding.result()
        except pyvips.Error as error:
            if self._file.error is not None:
                raise self._file.error from error
            raise OutputError(f"cannot write {self._path}: the encoder failed: {describe_failure(error)}") from error
        if self._given != self._height:
            raise OutputError(
                f"internal: {self._path} was given {self._given} of {self._height} rows; please report this picture"
            )


class _RowSource:
    """Rows that one thread gives and another one takes, as they are or as a PNG file that is not packed."""

    def __init__(self, header: Header, bits: int) -> None:
        self._queue: SimpleQueue[Pixels | None] = SimpleQueue()
        self._room = threading.Semaphore(1)
        self._stream = make_png(header, bits, self.strips(), packed=False)
        self._part = memoryview(b"")

    def wait(self) -> None:
        """Until the rows before are used up, or nobody reads any more."""
        self._room.acquire()

    def go_on(self) -> None:
        """Let the thread in `wait` continue: its rows were taken, or the encoder ended."""
        self._room.release()

    def put(self, rows: Pixels) -> None:
        """The next rows, in order."""
        self._queue.put(rows)

    def end(self) -> None:
        """There are no more rows."""
        self._queue.put(None)

    def strips(self) -> Iterator[Pixels]:
        """The rows as they come, whoever encodes them."""
        while (rows := self._queue.get()) is not None:
            yield rows
            del rows
            self.go_on()

    def read(self, count: int) -> bytes:
        """Up to `count` bytes of the file; none at the end."""
        if not self._part:
            self._part = memoryview(next(self._stream, b""))
        taken, self._part = self._part[:count], self._part[count:]
        return bytes(taken)


class _FileTarget:
    """A file that an encoder writes into, which remembers why it could not."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.error: OSError | None = None

    def write(self, content: bytes) -> int:
        """As of a stream, but -1 where it fails: no exception passes through libvips."""
        return self._try(lambda: self.stream.write(content))

    def seek(self, offset: int, whence: int) -> int:
        """As `write`; what was not written yet is written then."""
        return self._try(lambda: self.stream.seek(offset, whence))

    def read(self, count: int) -> bytes:
        """As of a stream: TIFF goes back to what it wrote."""
        return self.stream.read(count)

    def _try(self, act: Callable[[], int]) -> int:
        try:
            return act()
        except OSError as error:
            self.error = error
            return -1


def _encode(rows: _RowSource, file: _FileTarget, header: Header, form: Format, quality: int | None) -> None:
    if form.encoder is not None:
        bits = 8 if form.bits == 8 else header.bits
        strips = map(round_to_8bit, rows.strips()) if bits == 8 else rows.strips()
        for part in form.load_encoder()(header, bits, strips):
            file.stream.write(part)
        return
    pyvips = require("pyvips", "writing pictures")
    source, target = pyvips.SourceCustom(), pyvips.TargetCustom()
    source.on_read(rows.read)
    target.on_write(file.write)
    target.on_read(file.read)
    target.on_seek(file.seek)
    image = pyvips.Image.pngload_source(source, access="sequential", fail_on="error", unlimited=True)
    image, options = prepare_encoding(image, header, form, quality)
    getattr(image, f"{form.saver}_target")(target, **options)
