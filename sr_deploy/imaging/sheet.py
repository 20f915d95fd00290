"""Contact sheets: pictures side by side in rows, each with a caption below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import ShapeError

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

_WHITE = 255
_LINE_SPACING = 1.25


@dataclass(frozen=True)
class Cell:
    """One picture of a sheet."""

    image: NDArray[np.uint8]
    """H x W x 3 or 1 (drawn gray), 8 bit."""
    caption: str = ""
    """What stands below it; line breaks are kept, lines wider than the column are folded."""


def compose_sheet(rows: Sequence[Sequence[Cell]], *, gap: int = 8, text_size: int = 13) -> NDArray[np.uint8]:
    """Put cells into rows and columns on white.

    A column is as wide as its widest picture, a row as high as its highest one, with room for the longest caption of
    the row below. Smaller pictures stand at the top left of their place. Rows may differ in length. Pictures are not
    resized: enlarge small ones before.

    Args:
        rows: from top to bottom, each from left to right.
        gap: white pixels between cells.
        text_size: height of the captions' letters, in pixels.

    Returns:
        H x W x 3, 8 bit. One row without captions of cells of one height is as high as they are: no outer margin.

    Raises:
        ShapeError: no cell at all, or a picture that is not H x W x 3 or 1 of 8 bit.
    """
    cells = [cell for row in rows for cell in row]
    if not cells:
        raise ShapeError("a sheet needs at least one picture, not none; give some")
    for cell in cells:
        _check(cell.image)
    rows = [row for row in rows if row]
    count = max(len(row) for row in rows)
    widths = [max(row[column].image.shape[1] for row in rows if column < len(row)) for column in range(count)]
    lefts = [sum(widths[:column]) + gap * column for column in range(count)]
    strips = []
    for row in rows:
        strip = np.full((_row_height(row, widths, text_size), lefts[-1] + widths[-1], 3), _WHITE, np.uint8)
        above_text = max(cell.image.shape[0] for cell in row)
        for cell, left, width in zip(row, lefts, widths, strict=False):
            height, image_width = cell.image.shape[:2]
            strip[:height, left : left + image_width] = cell.image  # gray is repeated by broadcasting
            text = draw_caption(cell.caption, width, text_size)
            strip[above_text : above_text + text.shape[0], left : left + width] = text
        strips.append(strip)
    between = np.full((gap, strips[0].shape[1], 3), _WHITE, np.uint8)
    return np.concatenate([part for strip in strips for part in (strip, between)][:-1])


def draw_caption(caption: str, width: int, text_size: int = 13) -> NDArray[np.uint8]:
    """Black text on white, folded to a width.

    Pillow's own font is used: it is in the package, so the picture does not depend on the fonts of the machine. It has
    Latin letters and few signs beside; what it lacks (Greek letters, a multiplication sign) is drawn as a box.

    Args:
        caption: text; line breaks are kept.
        width: of the result, in pixels.
        text_size: height of the letters, in pixels.

    Returns:
        H x `width` x 3, 8 bit; H is 0 for an empty caption.
    """
    from PIL import Image, ImageDraw

    lines = _fold(caption, width, text_size)
    if not lines:
        return np.empty((0, width, 3), np.uint8)
    line_height = round(text_size * _LINE_SPACING)
    canvas = Image.new("L", (width, line_height * len(lines) + text_size // 3), _WHITE)
    pen = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        pen.text((1, line_height * number), line, fill=0, font=_font(text_size))
    return np.asarray(canvas)[..., None].repeat(3, axis=2)


def compare_crops(
    pictures: Sequence[NDArray[np.uint8]], captions: Sequence[str], scale: int, window: tuple[slice, slice]
) -> list[Cell]:
    """A row that shows one place of a low-resolution picture and of its enlargements.

    Args:
        pictures: the low-resolution picture, H x W x C, shown with its pixels as squares; then any number of
            (H * scale) x (W * scale) x C.
        captions: one for each.
        scale: of the enlargements.
        window: rows and columns of the enlargements to show, as `find_worst_window` gives them.
    """
    lr, *enlarged = pictures
    squares = lr.repeat(scale, axis=0).repeat(scale, axis=1)
    return [Cell(picture[window], caption) for picture, caption in zip((squares, *enlarged), captions, strict=True)]


def find_worst_window(a: NDArray[np.uint8], b: NDArray[np.uint8], side: int) -> tuple[slice, slice]:
    """Rows and columns, on a grid of half windows, of the square where two pictures differ most.

    Args:
        a: H x W x C, 8 bit.
        b: the same shape.
        side: of the square; a picture with a shorter side is taken whole along it.

    Raises:
        ShapeError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ShapeError(f"only pictures of one shape can be compared, not {a.shape} with {b.shape}")
    error = np.square(a.astype(np.float64) - b).sum(axis=2)
    tops, lefts = (range(0, max(length - side, 0) + 1, max(side // 2, 1)) for length in a.shape[:2])
    top, left = max(
        ((top, left) for top in tops for left in lefts),
        key=lambda corner: float(error[corner[0] : corner[0] + side, corner[1] : corner[1] + side].sum()),
    )
    return slice(top, top + side), slice(left, left + side)


def _check(image: NDArray[np.uint8]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or min(image.shape) < 1:
        shape = " x ".join(map(str, image.shape)) or "no axes"
        raise ShapeError(
            f"a sheet takes 8-bit pictures H x W x 3 or 1 with no empty side, not {shape} of {image.dtype}"
        )


def _row_height(row: Sequence[Cell], widths: Sequence[int], text_size: int) -> int:
    texts = [draw_caption(cell.caption, width, text_size) for cell, width in zip(row, widths, strict=False)]
    height: int = max(cell.image.shape[0] for cell in row) + max(text.shape[0] for text in texts)
    return height


def _fold(caption: str, width: int, text_size: int) -> list[str]:
    """Lines that fit: broken between words, and inside words that are wider than a line."""
    folded: list[str] = []
    for line in caption.splitlines():
        current = ""
        for word in line.split():
            joined = f"{current} {word}" if current else word
            if _fits(joined, width, text_size):
                current = joined
                continue
            if current:
                folded.append(current)
            *whole, current = _break_word(word, width, text_size)
            folded += whole
        folded.append(current)
    return folded


def _break_word(word: str, width: int, text_size: int) -> list[str]:
    """Pieces that fit, at least one letter each."""
    pieces = [word[:1]]
    for letter in word[1:]:
        if _fits(pieces[-1] + letter, width, text_size):
            pieces[-1] += letter
        else:
            pieces.append(letter)
    return pieces


def _fits(text: str, width: int, text_size: int) -> bool:
    return _font(text_size).getlength(text) <= width - 2


@lru_cache(maxsize=4)
def _font(text_size: int) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(text_size)
