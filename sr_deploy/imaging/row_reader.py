"""Pictures read row by row, from top to bottom, with no more than some rows in memory.

What this needs of a file: rows that lie in it one after the other, in the order in which they are seen.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

import numpy as np

from sr_deploy.deps import require
from sr_deploy.errors import ImageError
from sr_deploy.imaging.exif_blocks import refuse_tangled_exif
from sr_deploy.imaging.formats import BY_ROWS
from sr_deploy.imaging.header import convert_cmyk, read_header
from sr_deploy.imaging.limits import MAX_PIXELS, refuse_size, require_image
from sr_deploy.imaging.opening import (
    Pixels,
    damaged,
    recognize,
    refuse_colors,
    require_one_page,
)
from sr_deploy.imaging.vips_errors import decoding
from sr_deploy.untrusted import open_regular

if TYPE_CHECKING:
    import pyvips

STRIP = 256
"""Rows that are read at a time."""
_HEAD = 1 << 20
"""Bytes that are looked at to recognize a format: before them stands all but the samples, large profiles included."""


class RowReader:
    """A picture file, open for reading from top to bottom. Use it as a context manager."""

    def __init__(self, path: Path, *, max_pixels: int | None = MAX_PIXELS) -> None:
        """Read the header.

        Args:
            path: of a format in `BY_ROWS`, recognized by content, not by suffix.
            max_pixels: largest width times height that is taken; None: any.

        Raises:
            ImageError: as `decode_image`; or a file whose rows do not lie in the order in which they are seen:
                another format, interlaced or progressive, turned by its EXIF.
        """
        self._path = path
        self._stream = open_regular(require_image(path))
        try:
            self._open(max_pixels)
        except BaseException:
            self._stream.close()
            raise

    def _open(self, max_pixels: int | None) -> None:
        pyvips = require("pyvips", "reading pictures")
        path = self._path
        head = self._stream.read(_HEAD)
        self._stream.seek(0)
        # Not by its path, which libvips would map into memory whole. Kept, since libvips calls it as long as it reads.
        self._source = pyvips.SourceCustom()
        self._source.on_read(self._stream.read)
        self._source.on_seek(self._stream.seek)
        self._form = recognize(path, head, lambda: pyvips.vips_lib.vips_foreign_find_load_source(self._source.pointer))
        if not self._form.by_rows:
            able = ", ".join(form.name for form in BY_ROWS)
            raise _not_by_rows(path, f"a {self._form.title} file, and only {able} are read row by row")
        with mmap.mmap(self._stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            refuse_tangled_exif(path, self._form.find_exif, content)
        try:
            with decoding():
                image = pyvips.Image.new_from_source(self._source, "", access="sequential", fail_on=self._form.fail_on)
        except pyvips.Error as error:
            raise damaged(path, self._form, error) from error
        require_one_page(path, image)
        refuse_size(path, image.width, image.height, max_pixels)
        _refuse_order(path, image)
        image = convert_cmyk(path, image, self._form)
        refuse_colors(path, image)
        self.header = read_header(image)
        """All but the samples."""
        self._region = pyvips.Region.new(image)

    def strips(self) -> Iterator[Pixels]:
        """All rows, once, `STRIP` at a time: n x W x C, of the file's type, alpha as the last channel if there is one.

        Raises:
            ImageError: damaged or cut short.
        """
        import pyvips

        header = self.header
        dtype = np.uint8 if header.bits == 8 else np.uint16
        for top in range(0, header.height, STRIP):
            count = min(STRIP, header.height - top)
            try:
                with decoding():
                    samples = self._region.fetch(0, top, header.width, count)
            except pyvips.Error as error:
                raise damaged(self._path, self._form, error) from error
            yield cast("Pixels", np.frombuffer(samples, dtype).reshape(count, header.width, -1))

    def close(self) -> None:
        """Let go of the file."""
        self._region = None
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _refuse_order(path: Path, image: pyvips.Image) -> None:
    """Refuse files whose rows lie in another order than they are seen in.

    Raises:
        ImageError: interlaced, progressive, or to be turned.
    """
    if image.get_typeof("interlaced") or (image.get_typeof("jpeg-multiscan") and image.get("jpeg-multiscan")):
        raise _not_by_rows(path, "interlaced (progressive), so that no row is whole before the file's end")
    turn = image.get("orientation") if image.get_typeof("orientation") else 1
    if turn != 1:
        raise _not_by_rows(path, f"turned or mirrored by its EXIF (orientation {turn}), which takes all of it at once")


def _not_by_rows(path: Path, reason: str) -> ImageError:
    return ImageError(f"{path} is {reason}; leave --stream out, or save it anew in another way")
