"""The image formats: one table, from which readers, writers, messages, help texts and docs follow.

Neither NumPy nor pyvips is imported here, since the command line's help reads it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.errors import ImageError, InputError
from sr_deploy.imaging.exif_blocks import Content, find_in_heif, find_in_jpeg, find_in_png, find_in_webp
from sr_deploy.imaging.structure import refuse_animation, refuse_scans

if TYPE_CHECKING:
    from sr_deploy.imaging.header import Header
    from sr_deploy.imaging.opening import Pixels

    Encode = Callable[[Header, int, Iterable[Pixels]], Iterator[bytes]]
    Decode = Callable[[Path, bytes, int | None], Pixels]


def join(words: Iterable[str], last: str = "or") -> str:
    """A list in a sentence: `a, b or c`."""
    *rest, end = words
    return f"{', '.join(rest)} {last} {end}" if rest else end


@dataclass(frozen=True)
class Format:
    """One image format."""

    name: str
    """In messages, as of what is written."""
    suffixes: tuple[str, ...]
    """Of file names, in lower case; the first is given to new files."""
    more_suffixes: tuple[str, ...] = ()
    """Of files that are read, but not written."""
    reads: str | None = None
    """Name of what is read, where that is more than what is written."""

    loader: str | None = None
    """Its loader in libvips is the class `VipsForeignLoad` plus this; None: `decoder` reads it."""
    fail_on: str = "error"
    """What ends decoding in libvips: `error`, or `warning` where its codec only warns of damaged files."""
    signature: bytes | None = None
    """First bytes of a file that `decoder` reads."""
    decoder: str | None = None
    """`module:function` that takes path, content and the largest number of pixels (None: any), checks the size before
    it decodes (`limits.refuse_size`) and returns H x W x C: gray, RGB or RGBA."""
    find_exif: Callable[[Content], Iterator[bytes]] | None = None
    """Finds every block that its decoder parses as EXIF; None: its decoder parses none."""
    check_head: Callable[[Path, bytes], None] | None = None
    """Refuses files by their first bytes, up to the samples at least."""
    check_file: Callable[[Path, int, int, bytes], None] | None = None
    """Refuses files by width, height and content, before samples are decoded."""
    pillow: str | None = None
    """Its name in Pillow, which decodes training images where pyvips is absent; None: not decoded there."""
    photographs: bool = True
    """Whether folders of photographs (to train on, to calibrate with, to evaluate) are searched for it."""

    saver: str | None = None
    """Its operation in libvips, as in `jpegsave`; None: `encoder` writes it, if anything does."""
    options: Mapping[str, object] = field(default_factory=dict)
    """Fixed arguments of `saver`."""
    depth_option: str | None = None
    """Argument of `saver` that takes the bits per sample."""
    large_option: str | None = None
    """Argument of `saver` that is true for more than 3.9 GB of samples."""
    encoder: str | None = None
    """`module:function` that takes header, bits per sample (8 or 16) and strips of rows (n x W x C, alpha last), and
    yields the parts of the file."""
    quality: int | None = None
    """Default of --quality, 1 to 100; None: lossless."""
    bits: int = 16
    """Most bits per sample."""
    gray: bool = True
    """Whether one channel stays one; else `saver` makes three equal ones."""
    alpha: bool = True
    """Whether it holds transparency."""
    exif: bool = True
    """Whether EXIF is written."""
    dpi_in_exif: bool = False
    """Whether the resolution has no place but the EXIF."""
    by_rows: bool = False
    """Whether it is read and written row by row, with no more than some rows in memory (`--stream`)."""
    max_side: int | None = None
    """Longest side, in pixels; None: none that matters."""

    @property
    def is_written(self) -> bool:
        """Whether there is an encoder; else it is only read."""
        return self.saver is not None or self.encoder is not None

    @property
    def title(self) -> str:
        """Name of what is read, for messages about sources."""
        return self.reads or self.name

    def load_decoder(self) -> Decode:
        """The function that `decoder` names."""
        decode: Decode = pkgutil.resolve_name(str(self.decoder))
        return decode

    def load_encoder(self) -> Encode:
        """The function that `encoder` names."""
        encode: Encode = pkgutil.resolve_name(str(self.encoder))
        return encode


# Compression and effort are chosen so that encoding does not outlast a compact network; more of them makes files 1 to
# 6 % smaller in up to four times the time (docs/upscaling.md).
FORMATS = (
    Format(
        "PNG", (".png",), loader="Png", find_exif=find_in_png, check_head=refuse_animation, pillow="PNG",
        encoder="sr_deploy.imaging.png:make_png", by_rows=True,
    ),
    Format(
        "JPEG", (".jpg", ".jpeg"), loader="Jpeg", fail_on="warning", find_exif=find_in_jpeg, check_file=refuse_scans,
        pillow="JPEG",
        saver="jpegsave", quality=95, bits=8, alpha=False, dpi_in_exif=True, by_rows=True, max_side=65535,
    ),
    Format(
        "WebP", (".webp",), loader="Webp", find_exif=find_in_webp, pillow="WEBP",
        saver="webpsave", options={"effort": 0, "exact": True}, quality=95, bits=8, gray=False, dpi_in_exif=True,
        max_side=16383,
    ),
    Format(
        "TIFF", (".tif", ".tiff"), loader="Tiff", pillow="TIFF",
        saver="tiffsave", options={"compression": "deflate", "predictor": "horizontal", "level": 2},
        large_option="bigtiff", exif=False, by_rows=True,
    ),
    Format(
        "AVIF", (".avif",), more_suffixes=(".heic", ".heif"), reads="AVIF or HEIF", loader="Heif",
        find_exif=find_in_heif, saver="heifsave", options={"compression": "av1", "effort": 0}, depth_option="bitdepth",
        quality=90, bits=12, gray=False, dpi_in_exif=True, max_side=16384,
    ),
    Format("GIF", (".gif",), loader="Nsgif", photographs=False),
    Format("BMP", (".bmp",), signature=b"BM", decoder="sr_deploy.imaging.pillow:read_bmp", pillow="BMP"),
)  # fmt: skip
"""A new format is one entry (CONTRIBUTING.md)."""
WRITTEN = tuple(form for form in FORMATS if form.is_written)
BY_ROWS = tuple(form for form in FORMATS if form.by_rows)
PHOTOGRAPH_SUFFIXES = frozenset(
    suffix for form in FORMATS if form.photographs for suffix in (*form.suffixes, *form.more_suffixes)
)
"""Files that folders of photographs are searched for."""
PHOTOGRAPHS = join(form.name for form in FORMATS if form.photographs)
"""Their formats, for messages."""
IMAGE_SUFFIXES = frozenset(suffix for form in FORMATS for suffix in (*form.suffixes, *form.more_suffixes))
"""Files that a folder to upscale is searched for: also those that may be refused, so that they are reported."""
OUTPUT_SUFFIXES = tuple(suffix for form in WRITTEN for suffix in form.suffixes)


def find_format(path: Path) -> Format:
    """The format that the suffix of `path` names.

    Raises:
        ImageError: unknown suffix; the message lists those known.
    """
    form = next((form for form in WRITTEN if path.suffix.lower() in form.suffixes), None)
    if form is None:
        raise ImageError(
            f"cannot write {path}: unknown suffix {path.suffix!r}; name the output with one of "
            f"{', '.join(OUTPUT_SUFFIXES)}"
        )
    return form


def require_output_size(path: Path, width: int, height: int) -> None:
    """Check, before any work is done, that the format of `path` holds an image of that size.

    Raises:
        ImageError: unknown suffix, or a side is too long for it.
    """
    max_side = find_format(path).max_side
    if max_side is not None and max(width, height) > max_side:
        unlimited = join(form.suffixes[0] for form in WRITTEN if form.max_side is None)
        raise ImageError(
            f"cannot write {path}: {path.suffix} holds sides up to {max_side}, not {width}x{height}; write {unlimited}"
        )


def require_quality(path: Path, quality: int | None) -> None:
    """Check that a quality means something for the format of `path`.

    Raises:
        InputError: outside 1 to 100, or a lossless format.
        ImageError: unknown suffix.
    """
    if quality is None:
        return
    if not 1 <= quality <= 100:
        raise InputError(f"quality goes from 1 to 100, not {quality}")
    form = find_format(path)
    if form.quality is None:
        raise InputError(f"{form.name} files lose nothing, so quality {quality} means nothing for {path}; leave it out")


def find_losses(header: Header, path: Path) -> tuple[str, ...]:
    """What the format of `path` cannot hold of an image, in words; empty: all of it is kept.

    Raises:
        ImageError: unknown suffix, or transparency that the format cannot hold (nobody wants a black background).
    """
    form = find_format(path)
    if header.has_alpha and not form.alpha:
        holding = join(other.suffixes[0] for other in WRITTEN if other.alpha)
        raise ImageError(
            f"cannot write {path}: the picture has an alpha channel (transparency), which {form.name} does not hold; "
            f"write {holding}"
        )
    losses = []
    if header.bits > form.bits:
        losses.append(f"{form.name} holds {form.bits} bits per channel: 16 bits were rounded")
    if header.channels == 1 and not form.gray:
        losses.append(f"{form.name} holds no single channel: gray became three equal ones")
    if header.exif is not None and not form.exif:
        losses.append(f"{form.name} files are written without EXIF")
    if header.icc is not None and not header.icc_fits:
        losses.append("the color profile is for another kind of picture and was left out")
    return tuple(losses)
