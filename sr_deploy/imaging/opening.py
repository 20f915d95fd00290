"""Headers of picture files: which format, how large, and what no reader takes.

pyvips decodes. Files are handed to it as bytes: its own opening of paths reads options out of names such as
`photo[1].png` and remembers what a path held before.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.deps import require
from sr_deploy.errors import ImageError
from sr_deploy.imaging import pillow
from sr_deploy.imaging.exif_blocks import refuse_tangled_exif
from sr_deploy.imaging.limits import MAX_PIXELS, read_bytes, refuse_growth, refuse_scans, refuse_size
from sr_deploy.imaging.vips_errors import decoding, find_reason, strictness_for

if TYPE_CHECKING:
    import pyvips

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
"""H x W x C, 8 or 16 bit by the file's type."""

# libvips reads far more (SVG, PDF, matrices); only these are taken. Start of the loader's name -> name for people.
_LOADERS = {"Jpeg": "JPEG", "Png": "PNG", "Webp": "WebP", "Tiff": "TIFF", "Heif": "AVIF or HEIF", "Nsgif": "GIF"}
_INTERPRETATIONS = {("uint8", True): "b-w", ("uint8", False): "srgb", ("uint16", True): "grey16",
                    ("uint16", False): "rgb16"}  # fmt: skip


def open_image(path: Path, *, max_pixels: int | None = MAX_PIXELS) -> tuple[pyvips.Image, str]:
    """Read the header of a picture file, whose samples can then be read once, from top to bottom (`decode` keeps them).

    Args:
        path: JPEG, PNG, WebP, TIFF, BMP, AVIF, or a GIF with one frame; recognized by content, not by suffix.
        max_pixels: largest width times height that is taken; None: any.

    Returns:
        The picture, not decoded yet, and the name of its format.

    Raises:
        ImageError: no such file, a folder, damaged, not one of these formats, animated, several pages, or too large.
    """
    content = read_bytes(path, max_pixels)
    pyvips = require("pyvips", "reading pictures")
    if content.startswith(b"BM"):
        refuse_size(path, *pillow.read_bmp_size(path, content), max_pixels)
        return wrap_pixels(pillow.read_bmp(path, content)), "BMP"
    with decoding():
        loader = pyvips.vips_lib.vips_foreign_find_load_buffer(content, len(content))
    form = name_format(path, loader, content)
    refuse_tangled_exif(path, form, content)
    try:
        with decoding():
            image = pyvips.Image.new_from_buffer(content, "", access="sequential", fail_on=strictness_for(form))
    except pyvips.Error as error:
        raise damaged(path, form, error) from error
    require_one_page(path, image)
    refuse_size(path, image.width, image.height, max_pixels)
    refuse_growth(path, image.width, image.height, image.bands * (2 if image.format == "ushort" else 1), len(content))
    if form == "JPEG":
        refuse_scans(path, image.width, image.height, content)
    return image, form


def name_format(path: Path, loader: object, content: bytes) -> str:
    """The name of a file's format.

    Args:
        path: for messages.
        loader: what libvips found for it: the C string of its class, or null.
        content: its bytes, or as many of the first as come before the samples.

    Raises:
        ImageError: empty, none of the formats, or an animated PNG.
    """
    pyvips = require("pyvips", "reading pictures")
    text = pyvips.ffi.string(loader).decode() if loader else ""
    form = next((name for prefix, name in _LOADERS.items() if text.startswith(f"VipsForeignLoad{prefix}")), None)
    if form is None:
        what = "is empty" if not content else "is no picture that can be read"
        raise ImageError(f"{path} {what}; give a {', '.join(_LOADERS.values())} or BMP file")
    if form == "PNG" and b"acTL" in content[: content.find(b"IDAT")]:
        raise ImageError(f"{path} is animated (APNG); give a file with one picture")
    return form


def require_one_page(path: Path, image: pyvips.Image) -> None:
    """Refuse animations and documents.

    Raises:
        ImageError: more than one page.
    """
    pages = image.get("n-pages") if image.get_typeof("n-pages") else 1
    if pages > 1:
        raise ImageError(f"{path} is animated or has several pages ({pages}); give a file with one picture")


def refuse_colors(path: Path, image: pyvips.Image) -> None:
    """Refuse what is neither gray nor RGB of 8 or 16 bit, with or without alpha.

    Raises:
        ImageError: CMYK, floating point, Lab, more samples per pixel.
    """
    if image.interpretation == "cmyk":
        raise ImageError(f"{path} is a CMYK picture (for printing); convert it to RGB first")
    known = ("srgb", "b-w", "rgb16", "grey16", "rgb", "multiband")
    if image.format not in ("uchar", "ushort") or image.interpretation not in known or image.bands > 4:
        raise ImageError(
            f"{path} holds samples of type {image.format}, {image.bands} per pixel, {image.interpretation}; "
            "convert it to 8-bit RGB first"
        )


def decode(path: Path, image: pyvips.Image, form: str) -> pyvips.Image:
    """The picture with all its samples in memory.

    Raises:
        ImageError: damaged or cut short.
    """
    import pyvips

    try:
        with decoding():
            return image.copy_memory()
    except pyvips.Error as error:
        raise damaged(path, form, error) from error


def decode_upright(path: Path, image: pyvips.Image, form: str) -> Pixels:
    """All samples, turned upright by the EXIF orientation.

    Returns:
        H x W x bands, 8 or 16 bit.

    Raises:
        ImageError: damaged or cut short.
    """
    import pyvips

    turned = image.get_typeof("orientation") and image.get("orientation") != 1
    try:
        if turned:
            image = decode(path, image, form).autorot()
        with decoding():
            pixels = np.asarray(image.numpy())
    except pyvips.Error as error:
        raise damaged(path, form, error) from error
    # pyvips leaves out a single band, and of a single gray pixel a side as well.
    return np.ascontiguousarray(pixels.reshape(image.height, image.width, image.bands))


def wrap_pixels(image: Pixels) -> pyvips.Image:
    """A picture of pyvips on pixels of numpy, which it reads in place and keeps alive."""
    pyvips = require("pyvips", "reading and writing pictures")
    height, width, channels = image.shape
    sample = "uchar" if image.dtype == np.uint8 else "ushort"
    wrapped = pyvips.Image.new_from_memory(np.ascontiguousarray(image).data, width, height, channels, sample)
    return wrapped.copy(interpretation=_INTERPRETATIONS[image.dtype.name, channels < 3])


def damaged(path: Path, form: str, error: pyvips.Error) -> ImageError:
    """The error for a file whose decoder gave up, raised outside of `decoding`."""
    return ImageError(
        f"{path} is a damaged or incomplete {form} file ({find_reason(path, form, error)}); "
        "get it anew, or repair it by saving it again in an editor"
    )
