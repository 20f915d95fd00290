"""What each format that is written can hold, and how it is encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sr_deploy.errors import ImageError, InputError


@dataclass(frozen=True)
class Format:
    """One format of files, that is written."""

    name: str
    """For people."""
    suffixes: tuple[str, ...]
    """Endings of file names, in lower case; the first is given to new names."""
    saver: str | None
    """The operation of libvips, without where it writes to; None: `png` makes it."""
    options: Mapping[str, object] = field(default_factory=dict)
    """Its fixed arguments."""
    quality: int | None = None
    """Quality where nobody chooses, 1 to 100; None: nothing is lost, so there is nothing to choose."""
    bits: int = 16
    """Most bits per sample."""
    gray: bool = True
    """Whether one channel stays one; else it becomes three equal ones."""
    alpha: bool = True
    """Whether it holds transparency."""
    exif: bool = True
    """Whether EXIF is written."""
    dpi_in_exif: bool = False
    """Whether the resolution has no place but the EXIF."""
    by_rows: bool = False
    """Whether it is read and written row by row, from top to bottom, with no more than some rows in memory."""
    max_side: int | None = None
    """Longest side in pixels; None: none that matters."""


# Compression and effort are chosen so that encoding does not outlast a compact network; more of them makes files 1 to
# 6 % smaller in up to four times the time (docs/upscaling.md).
FORMATS = (
    Format("PNG", (".png",), None, by_rows=True),
    Format("JPEG", (".jpg", ".jpeg"), "jpegsave", quality=95, bits=8, alpha=False, dpi_in_exif=True,
           by_rows=True, max_side=65535),
    Format("WebP", (".webp",), "webpsave", {"effort": 0, "exact": True}, quality=95, bits=8, gray=False,
           dpi_in_exif=True, max_side=16383),
    Format("TIFF", (".tif", ".tiff"), "tiffsave", {"compression": "deflate", "predictor": "horizontal",
                                                         "level": 2}, exif=False, by_rows=True),
    Format("AVIF", (".avif",), "heifsave", {"compression": "av1", "effort": 0}, quality=90, bits=12, gray=False,
           dpi_in_exif=True, max_side=16384),
)  # fmt: skip


def output_suffixes() -> tuple[str, ...]:
    """Suffixes of the formats that can be written."""
    return tuple(suffix for form in FORMATS for suffix in form.suffixes)


def find_format(path: Path) -> Format:
    """The format that the suffix of `path` names.

    Raises:
        ImageError: unknown suffix; the message lists those known.
    """
    form = next((form for form in FORMATS if path.suffix.lower() in form.suffixes), None)
    if form is None:
        raise ImageError(
            f"cannot write {path}: unknown suffix {path.suffix!r}; name the output with one of "
            f"{', '.join(output_suffixes())}"
        )
    return form


def require_output_suffix(path: Path) -> None:
    """Check, before any work is done, that the format of `path` can be written.

    Raises:
        ImageError: unknown suffix; the message lists those known.
    """
    find_format(path)


def require_output_size(path: Path, width: int, height: int) -> None:
    """Check, before any work is done, that the format of `path` holds a picture of that size.

    Raises:
        ImageError: unknown suffix, or a side is too long for it.
    """
    maximum = find_format(path).max_side
    if maximum is not None and max(width, height) > maximum:
        raise ImageError(
            f"cannot write {path}: {path.suffix} holds sides up to {maximum}, not {width}x{height}; write .png or .tif"
        )


def require_quality(path: Path, quality: int | None) -> None:
    """Check that a quality means something for the format of `path`.

    Raises:
        InputError: outside 1 to 100, or a format without loss.
        ImageError: unknown suffix.
    """
    if quality is None:
        return
    if not 1 <= quality <= 100:
        raise InputError(f"quality goes from 1 to 100, not {quality}")
    form = find_format(path)
    if form.quality is None:
        raise InputError(f"{form.name} files lose nothing, so quality {quality} means nothing for {path}; leave it out")
