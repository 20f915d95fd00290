"""Headers of picture files: which format, how large, and what no reader takes.

pyvips decodes. Files are handed to it as bytes: its own opening of paths reads options out of names such as
`photo[1].png` and remembers what a path held before.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.deps import require
from sr_deploy.errors import ImageError
from sr_deploy.imaging.exif_blocks import refuse_tangled_exif
from sr_deploy.imaging.formats import FORMATS, Format, join
from sr_deploy.imaging.limits import MAX_PIXELS, read_bytes, refuse_growth, refuse_size
from sr_deploy.imaging.vips_errors import decoding, find_reason

if TYPE_CHECKING:
    import pyvips

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
"""H x W x C, 8 or 16 bit by the file's type."""

_INTERPRETATIONS = {("uint8", True): "b-w", ("uint8", False): "srgb", ("uint16", True): "grey16",
                    ("uint16", False): "rgb16"}  # fmt: skip


def open_image(path: Path, *, max_pixels: int | None = MAX_PIXELS) -> tuple[pyvips.Image, Format]:
    """Read the header of a picture file, whose samples can then be read once, from top to bottom (`decode` keeps them).

    Args:
        path: of any format in `FORMATS`, recognized by content, not by suffix.
        max_pixels: largest width times height that is taken; None: any.

    Returns:
        The picture, not decoded yet, and its format.

    Raises:
        ImageError: no such file, a folder, damaged, not one of these formats, animated, several pages, or too large.
    """
    content = read_bytes(path, max_pixels)
    pyvips = require("pyvips", "reading pictures")
    form = recognize(path, content, lambda: pyvips.vips_lib.vips_foreign_find_load_buffer(content, len(content)))
    if form.decoder is not None:
        return wrap_pixels(form.load_decoder()(path, content, max_pixels)), form
    refuse_tangled_exif(path, form.find_exif, content)
    try:
        with decoding():
            image = pyvips.Image.new_from_buffer(content, "", access="sequential", fail_on=form.fail_on)
    except pyvips.Error as error:
        raise damaged(path, form, error) from error
    require_one_page(path, image)
    refuse_size(path, image.width, image.height, max_pixels)
    refuse_growth(path, image.width, image.height, image.bands * (2 if image.format == "ushort" else 1), len(content))
    if form.check_file is not None:
        form.check_file(path, image.width, image.height, content)
    return image, form


def recognize(path: Path, content: bytes, find_loader: Callable[[], object]) -> Format:
    """The format of a file. libvips reads far more (SVG, PDF, matrices); only those of `FORMATS` are taken.

    Args:
        path: for messages.
        content: its bytes, or as many of the first as come before the samples.
        find_loader: asks libvips for its loader: the C string of a class, or null.

    Raises:
        ImageError: empty, none of the formats, or an animated PNG.
    """
    for form in FORMATS:
        if form.signature is not None and content.startswith(form.signature):
            return form
    with decoding():
        loader = find_loader()
    text = require("pyvips", "reading pictures").ffi.string(loader).decode() if loader else ""
    for form in FORMATS:
        if form.loader is not None and text.startswith(f"VipsForeignLoad{form.loader}"):
            if form.check_head is not None:
                form.check_head(path, content)
            return form
    what = "is empty" if not content else "is not a picture that can be read"
    raise ImageError(f"{path} {what}; give a {join(form.title for form in FORMATS)} file")


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


def decode(path: Path, image: pyvips.Image, form: Format) -> pyvips.Image:
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


def decode_upright(path: Path, image: pyvips.Image, form: Format) -> Pixels:
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


def damaged(path: Path, form: Format, error: pyvips.Error) -> ImageError:
    """The error for a file whose decoder gave up, raised outside of `decoding`."""
    return ImageError(
        f"{path} is a damaged or incomplete {form.title} file ({find_reason(path, form.fail_on, error)}); "
        "get it anew, or repair it by saving it again in an editor"
    )
