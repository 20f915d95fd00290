"""What an encoder is given beside samples: profile, EXIF, resolution, and its options. libvips encodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from sr_deploy.imaging.formats import Format
from sr_deploy.imaging.header import Header

if TYPE_CHECKING:
    import pyvips

_UNSAID_DPI = 72.0
"""Written where a picture has no resolution: libvips has to write one, and by itself would invent 25.4."""
_KEEP_EXIF, _KEEP_ICC = 1, 8
"""Flags of libvips' argument `keep`."""
_LARGE = 3_900_000_000
"""Bytes of samples; 32-bit offsets, as of TIFF, end at 4 GB."""


def prepare_encoding(
    image: pyvips.Image, header: Header, form: Format, quality: int | None, alpha: pyvips.Image | None = None
) -> tuple[pyvips.Image, dict[str, object]]:
    """A picture with all that its file is to say, and the arguments of its saver.

    Args:
        image: samples of 8 or 16 bit, decoded or not; with its alpha, if `alpha` is None and there is one.
        header: what goes with them.
        form: to write.
        quality: 1 to 100; None: that of the format.
        alpha: the transparency, one band.
    """
    keep = 0
    bits = 16 if image.format == "ushort" else 8
    if header.icc is not None and header.icc_fits:
        image = _attach(image, "icc-profile-data", header.icc)
        keep |= _KEEP_ICC
        if header.channels == 1 and not form.gray:  # a profile for gray does not fit three channels
            image = image.icc_transform("srgb", embedded=True, depth=bits)
    if alpha is not None:
        image = image.bandjoin(alpha)
    if form.exif and (header.exif is not None or (header.dpi is not None and form.dpi_in_exif)):
        keep |= _KEEP_EXIF
        if header.exif is not None:
            image = _attach(image, "exif-data", header.exif)
    across, down = header.dpi or (_UNSAID_DPI, _UNSAID_DPI)
    image = image.copy(xres=across / 25.4, yres=down / 25.4)  # libvips counts per millimetre
    options = dict(form.options, keep=keep)
    if form.quality is not None:
        options["Q"] = form.quality if quality is None else quality
    if form.depth_option is not None:
        options[form.depth_option] = min(bits, form.bits)
    if form.large_option is not None:
        options[form.large_option] = image.width * image.height * image.bands * bits // 8 > _LARGE
    return image, options


def round_to_8bit(samples: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.uint8]:
    """16-bit samples to the nearest of 8 bit (65535 becomes 255); 8-bit ones as they are."""
    if samples.dtype == np.uint8:
        return cast("NDArray[np.uint8]", samples)
    return ((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _attach(image: pyvips.Image, name: str, content: bytes) -> pyvips.Image:
    import pyvips

    own = image.copy()  # metadata are set in place: never on a picture that somebody else holds
    own.set_type(pyvips.GValue.blob_type, name, content)
    return own
