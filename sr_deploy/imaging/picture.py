"""A picture with all that its file says about it: depth, transparency, colour profile, EXIF, resolution."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from sr_deploy.deps import require
from sr_deploy.errors import ImageError, OutputError
from sr_deploy.files import replacing_file
from sr_deploy.imaging.exif import read_dpi, set_upright
from sr_deploy.imaging.formats import Format, find_format, require_output_size, require_quality
from sr_deploy.imaging.opening import (
    Pixels,
    damaged,
    decode_upright,
    describe_failure,
    open_picture,
    refuse_colours,
    wrap_pixels,
)

if TYPE_CHECKING:
    import pyvips

MAX_PIXELS = 200_000_000
"""Largest picture that is decoded where nobody allows more."""
_UNSAID_DPI = 72.0
"""Written where a picture has no resolution: libvips has to write one, and by itself would invent 25.4."""
_KEEP_EXIF, _KEEP_ICC = 1, 8
"""Flags of libvips' argument `keep`."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright."""

    pixels: Pixels
    """H x W x C, 8 or 16 bit by the file's type; C = 1 (gray) or 3 (RGB), alpha apart, not multiplied by it."""
    alpha: Pixels | None = None
    """H x W, of the same type; 0 is transparent. None: the file has no transparency."""
    icc: bytes | None = None
    """Colour profile that the pixels are in; None: sRGB is meant."""
    exif: bytes | None = None
    """EXIF, with the orientation set to upright."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch across and down, None where the file does not say."""
    form: str = "PNG"
    """Name of the format it came from."""

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.pixels.shape[0])


def read_picture(path: Path, *, max_pixels: int | None = MAX_PIXELS) -> Picture:
    """Decode one picture with what its file says about it.

    Palettes become RGB. CMYK is converted to sRGB through its own colour profile. Orientation is applied to the pixels
    and reset in the EXIF, so that nobody turns the picture twice.

    Args:
        path: JPEG, PNG, WebP, TIFF, BMP, AVIF or a GIF with one frame; recognised by content, not by suffix.
        max_pixels: largest width times height that is decoded; None: any.

    Raises:
        ImageError: no such file, a folder, damaged or cut short, too large, animated, CMYK without a profile, floating
            point.
    """
    image, form = open_picture(path, max_pixels=max_pixels)
    if image.interpretation == "cmyk":
        image = _convert_cmyk(path, image, form)
    refuse_colours(path, image)
    has_alpha = bool(image.hasalpha())
    exif = _read_blob(image, "exif-data")
    icc = _read_blob(image, "icc-profile-data")
    dpi = _read_dpi(image, exif)
    samples = decode_upright(path, image, form)
    if samples.shape[:2] != (image.height, image.width) and dpi is not None:
        dpi = dpi[1], dpi[0]  # lay on its side
    return Picture(
        pixels=cast("Pixels", np.ascontiguousarray(samples[..., :-1])) if has_alpha else samples,
        alpha=cast("Pixels", np.ascontiguousarray(samples[..., -1])) if has_alpha else None,
        icc=icc,
        exif=None if exif is None else set_upright(exif),
        dpi=dpi,
        form=form,
    )


def find_losses(picture: Picture, path: Path) -> tuple[str, ...]:
    """What the format of `path` cannot hold of a picture, in words; empty: all of it is kept.

    Raises:
        ImageError: unknown suffix, or transparency that the format cannot hold (nobody wants a black background).
    """
    form = find_format(path)
    if picture.alpha is not None and not form.alpha:
        raise ImageError(
            f"cannot write {path}: the picture has an alpha channel (transparency), which {form.name} does not hold; "
            "write .png, .webp, .tif or .avif"
        )
    losses = []
    if picture.pixels.dtype == np.uint16 and form.bits < 16:
        losses.append(f"{form.name} holds {form.bits} bits per channel: 16 bits were rounded")
    if picture.pixels.shape[2] == 1 and not form.gray:
        losses.append(f"{form.name} holds no single channel: gray became three equal ones")
    if picture.exif is not None and not form.exif:
        losses.append(f"{form.name} files are written without EXIF")
    if picture.icc is not None and not _icc_fits(picture):
        losses.append("the colour profile is for another kind of picture and was left out")
    return tuple(losses)


def write_picture(path: Path, picture: Picture, quality: int | None = None) -> tuple[str, ...]:
    """Encode a picture by the suffix of `path`, with its transparency, colour profile, EXIF and resolution.

    Args:
        path: takes the place of what was there, once complete.
        picture: any.
        quality: 1 to 100 for JPEG (95 if None), WebP (95) and AVIF (90).

    Returns:
        What the format could not hold, as `find_losses` says it.

    Raises:
        ImageError: unknown suffix, sides or transparency that the format cannot hold, or no such picture.
        InputError: a quality outside 1 to 100, or for a format without loss.
        OutputError: cannot be written; nothing is left behind.
    """
    form = find_format(path)
    require_quality(path, quality)
    _require_samples(path, picture)
    require_output_size(path, picture.width, picture.height)
    losses = find_losses(picture, path)
    pyvips = require("pyvips", "writing pictures")
    try:
        encoded = _encode(picture, form, quality)
    except pyvips.Error as error:
        raise OutputError(f"cannot write {path}: the encoder failed: {describe_failure(error)}") from error
    with replacing_file(path) as temporary:
        temporary.write_bytes(encoded)
    return losses


def round_to_8bit(samples: Pixels) -> Pixels:
    """16-bit samples to the nearest of 8 bit (65535 becomes 255); 8-bit ones as they are."""
    if samples.dtype == np.uint8:
        return samples
    return ((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _encode(picture: Picture, form: Format, quality: int | None) -> bytes:
    if form.bits == 8:
        alpha = None if picture.alpha is None else round_to_8bit(picture.alpha)
        picture = replace(picture, pixels=round_to_8bit(picture.pixels), alpha=alpha)
    image = wrap_pixels(picture.pixels)
    keep = 0
    if picture.icc is not None and _icc_fits(picture):
        image = _attach(image, "icc-profile-data", picture.icc)
        keep |= _KEEP_ICC
        if picture.pixels.shape[2] == 1 and not form.gray:  # a profile for gray does not fit three channels
            image = image.icc_transform("srgb", embedded=True, depth=8 * picture.pixels.dtype.itemsize)
    if picture.alpha is not None:
        image = image.bandjoin(wrap_pixels(picture.alpha[..., None]))
    if form.exif and (picture.exif is not None or (picture.dpi is not None and form.dpi_in_exif)):
        keep |= _KEEP_EXIF
        if picture.exif is not None:
            image = _attach(image, "exif-data", picture.exif)
    across, down = picture.dpi or (_UNSAID_DPI, _UNSAID_DPI)
    image = image.copy(xres=across / 25.4, yres=down / 25.4)  # libvips counts per millimetre
    options = dict(form.options, keep=keep)
    if form.quality is not None:
        options["Q"] = form.quality if quality is None else quality
    if form.saver == "heifsave_buffer":
        options["bitdepth"] = 12 if picture.pixels.dtype == np.uint16 else 8
    if form.saver == "tiffsave_buffer":  # offsets of 32 bits end at 4 GB
        options["bigtiff"] = picture.pixels.nbytes * 4 // 3 > 3_900_000_000
    encoded: bytes = getattr(image, form.saver)(**options)
    return encoded


def _attach(image: pyvips.Image, name: str, content: bytes) -> pyvips.Image:
    import pyvips

    own = image.copy()  # metadata are set in place: never on a picture that somebody else holds
    own.set_type(pyvips.GValue.blob_type, name, content)
    return own


def _read_blob(image: pyvips.Image, name: str) -> bytes | None:
    return bytes(image.get(name)) if image.get_typeof(name) else None


def _read_dpi(image: pyvips.Image, exif: bytes | None) -> tuple[float, float] | None:
    if (image.xres, image.yres) != (1.0, 1.0):  # libvips' value for a file that does not say
        return image.xres * 25.4, image.yres * 25.4
    return None if exif is None else read_dpi(exif)


def _icc_fits(picture: Picture) -> bool:
    """Whether the profile is for that many channels (ICC.1:2022, table 19: bytes 16 to 19 name the colour space)."""
    space = b"GRAY" if picture.pixels.shape[2] == 1 else b"RGB "
    return picture.icc is not None and picture.icc[16:20] == space


def _convert_cmyk(path: Path, image: pyvips.Image, form: str) -> pyvips.Image:
    """To sRGB through its own profile: without one nobody knows which colours its inks have."""
    import pyvips

    if image.bands != 4 or not image.get_typeof("icc-profile-data"):
        raise ImageError(
            f"{path} is a CMYK picture (for printing) without a colour profile for its four inks; "
            "convert it to RGB first"
        )
    try:
        # Decoded first, so that a damaged file is told from a damaged profile.
        return image.copy_memory().icc_transform("srgb", embedded=True, depth=16 if image.format == "ushort" else 8)
    except pyvips.Error as error:
        raise damaged(path, form, error) from error


def _require_samples(path: Path, picture: Picture) -> None:
    pixels, alpha = picture.pixels, picture.alpha
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise ImageError(
            f"cannot write {path}: a picture is H x W x 1 or 3 of 8 or 16 bit, not {pixels.shape} {pixels.dtype}"
        )
    if alpha is not None and (alpha.shape != pixels.shape[:2] or alpha.dtype != pixels.dtype):
        raise ImageError(
            f"cannot write {path}: alpha is {pixels.shape[:2]} {pixels.dtype} like the pixels, not {alpha.shape} "
            f"{alpha.dtype}"
        )
