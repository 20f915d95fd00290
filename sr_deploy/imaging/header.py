"""All that a picture's file says about its samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.errors import ImageError
from sr_deploy.imaging.exif import read_dpi, set_upright
from sr_deploy.imaging.formats import Format
from sr_deploy.imaging.opening import damaged

if TYPE_CHECKING:
    import pyvips


@dataclass(frozen=True)
class Header:
    """A picture without its samples."""

    width: int
    height: int
    channels: int
    """1 (gray) or 3 (RGB), alpha apart."""
    bits: int
    """8 or 16 per sample, by the file's type."""
    has_alpha: bool
    """Whether the file has transparency."""
    icc: bytes | None = None
    """Color profile that the samples are in; None: sRGB is meant."""
    exif: bytes | None = None
    """EXIF, with the orientation set to upright."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch across and down, None where the file does not say."""

    @property
    def icc_fits(self) -> bool:
        """Whether the profile is for that many channels (ICC.1:2022, table 19: bytes 16 to 19 name its colors)."""
        space = b"GRAY" if self.channels == 1 else b"RGB "
        return self.icc is not None and self.icc[16:20] == space


def read_header(image: pyvips.Image) -> Header:
    """What an opened picture says about itself, as it is in the file.

    Args:
        image: gray or RGB of 8 or 16 bit (`refuse_colors`), decoded or not.
    """
    has_alpha = bool(image.hasalpha())
    exif = _read_blob(image, "exif-data")
    return Header(
        width=image.width,
        height=image.height,
        channels=image.bands - has_alpha,
        bits=16 if image.format == "ushort" else 8,
        has_alpha=has_alpha,
        icc=_read_blob(image, "icc-profile-data"),
        exif=None if exif is None else set_upright(exif),
        dpi=_read_dpi(image, exif),
    )


def convert_cmyk(path: Path, image: pyvips.Image, form: Format) -> pyvips.Image:
    """CMYK to sRGB through its own profile: without one nobody knows which colors its inks have; others as they are.

    Raises:
        ImageError: no profile for four inks, or a damaged one.
    """
    import pyvips

    if image.interpretation != "cmyk":
        return image
    if image.bands != 4 or not image.get_typeof("icc-profile-data"):
        raise ImageError(
            f"{path} is a CMYK picture (for printing) without a color profile for its four inks; "
            "convert it to RGB first"
        )
    try:
        return image.icc_transform("srgb", embedded=True, depth=16 if image.format == "ushort" else 8)
    except pyvips.Error as error:
        raise damaged(path, form, error) from error


def _read_blob(image: pyvips.Image, name: str) -> bytes | None:
    return bytes(image.get(name)) if image.get_typeof(name) else None


def _read_dpi(image: pyvips.Image, exif: bytes | None) -> tuple[float, float] | None:
    if (image.xres, image.yres) != (1.0, 1.0):  # libvips' value for a file that does not say
        return image.xres * 25.4, image.yres * 25.4
    return None if exif is None else read_dpi(exif)
