"""A picture with all that its file says about it: depth, transparency, color profile, EXIF, resolution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from sr_deploy.deps import require
from sr_deploy.errors import ImageError, OutputError
from sr_deploy.files import KeptFolder, replacing_file
from sr_deploy.imaging.encoding import prepare_encoding, round_to_8bit
from sr_deploy.imaging.formats import Format, find_format, find_losses, require_output_size, require_quality
from sr_deploy.imaging.header import Header, convert_cmyk, read_header
from sr_deploy.imaging.limits import MAX_PIXELS
from sr_deploy.imaging.opening import (
    Pixels,
    decode,
    decode_upright,
    open_image,
    refuse_colors,
    wrap_pixels,
)
from sr_deploy.imaging.vips_errors import describe_failure


@dataclass(frozen=True)
class DecodedImage:
    """A decoded picture, upright."""

    pixels: Pixels
    """H x W x C, 8 or 16 bit by the file's type; C = 1 (gray) or 3 (RGB), alpha apart, not multiplied by it."""
    alpha: Pixels | None = None
    """H x W, of the same type; 0 is transparent. None: the file has no transparency."""
    icc: bytes | None = None
    """Color profile that the pixels are in; None: sRGB is meant."""
    exif: bytes | None = None
    """EXIF, with the orientation set to upright."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch across and down, None where the file does not say."""

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.pixels.shape[0])

    @property
    def header(self) -> Header:
        """All but the samples."""
        return Header(
            width=self.width,
            height=self.height,
            channels=self.pixels.shape[2],
            bits=8 * self.pixels.dtype.itemsize,
            has_alpha=self.alpha is not None,
            icc=self.icc,
            exif=self.exif,
            dpi=self.dpi,
        )


def decode_image(path: Path, *, max_pixels: int | None = MAX_PIXELS) -> DecodedImage:
    """Decode one picture with what its file says about it.

    Palettes become RGB. CMYK is converted to sRGB through its own color profile. Orientation is applied to the pixels
    and reset in the EXIF, so that nobody turns the picture twice.

    Args:
        path: of any format in `FORMATS`, recognized by content, not by suffix.
        max_pixels: largest width times height that is decoded; None: any.

    Raises:
        ImageError: no such file, a folder, damaged or cut short, too large, animated, CMYK without a profile, floating
            point.
    """
    image, form = open_image(path, max_pixels=max_pixels)
    if image.interpretation == "cmyk":  # decoded first, so that a damaged file is told from a damaged profile
        image = convert_cmyk(path, decode(path, image, form), form)
    refuse_colors(path, image)
    header = read_header(image)
    dpi = header.dpi
    samples = decode_upright(path, image, form)
    if samples.shape[:2] != (header.height, header.width) and dpi is not None:
        dpi = dpi[1], dpi[0]  # lay on its side
    return DecodedImage(
        pixels=cast("Pixels", np.ascontiguousarray(samples[..., :-1])) if header.has_alpha else samples,
        alpha=cast("Pixels", np.ascontiguousarray(samples[..., -1])) if header.has_alpha else None,
        icc=header.icc,
        exif=header.exif,
        dpi=dpi,
    )


def write_decoded(
    path: Path, picture: DecodedImage, quality: int | None = None, *, within: KeptFolder | None = None
) -> tuple[str, ...]:
    """Encode a picture by the suffix of `path`, with its transparency, color profile, EXIF and resolution.

    Args:
        path: takes the place of what was there, once complete.
        picture: any.
        quality: 1 to 100, for formats with loss; None: the format's default.
        within: as `replacing_file` has it.

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
    losses = find_losses(picture.header, path)
    pyvips = require("pyvips", "writing pictures")
    try:
        encoded = _encode(picture, form, quality)
    except pyvips.Error as error:
        raise OutputError(f"cannot write {path}: the encoder failed: {describe_failure(error)}") from error
    with replacing_file(path, within) as temporary:
        temporary.write_bytes(encoded)
    return losses


def _encode(picture: DecodedImage, form: Format, quality: int | None) -> bytes:
    pixels, alpha = picture.pixels, picture.alpha
    if form.bits == 8:
        pixels, alpha = round_to_8bit(pixels), None if alpha is None else round_to_8bit(alpha)
    if form.encoder is not None:
        whole = pixels if alpha is None else cast("Pixels", np.dstack((pixels, alpha)))
        return b"".join(form.load_encoder()(picture.header, 8 * whole.dtype.itemsize, [whole]))
    transparency = None if alpha is None else wrap_pixels(alpha[..., None])
    image, options = prepare_encoding(wrap_pixels(pixels), picture.header, form, quality, transparency)
    encoded: bytes = getattr(image, f"{form.saver}_buffer")(**options)
    return encoded


def _require_samples(path: Path, picture: DecodedImage) -> None:
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
