"""What Pillow decodes, which comes with scikit-image: BMP, unknown to pyvips, and all else where that is absent."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import ImageError
from sr_deploy.imaging.formats import FORMATS, join
from sr_deploy.imaging.limits import MAX_PIXELS, read_bytes, refuse_growth, refuse_size

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

SamplesT = TypeVar("SamplesT", bound=NDArray[Any])

_FORMATS = {form.pillow: form for form in FORMATS if form.pillow is not None}
"""Pillow knows many more, one of which starts Ghostscript."""
# What its decoders were seen to raise for damaged files.
_DAMAGE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    struct.error,
)
_TAKEN_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "I;16", "I;16B", "I;16L")


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Decode a picture to 8-bit RGB: gray is repeated, alpha dropped, 16 bit cut to its upper 8.

    Returns:
        H x W x 3, turned upright by its EXIF orientation.

    Raises:
        ImageError: damaged or cut short, an unknown format, CMYK, animated, floating point.
    """
    return _read(path, _take_rgb)


def read_samples(path: Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Decode a picture as it is, with its alpha.

    Returns:
        H x W x bands, 8 or 16 bit, turned upright by its EXIF orientation.

    Raises:
        ImageError: as `read_rgb`; or colors of 16 bit, of which Pillow would keep 8.
    """
    return _read(path, _take_samples)


def _take_rgb(_path: Path, upright: Image.Image, _raw: str) -> NDArray[np.uint8]:
    if upright.mode.startswith("I;16"):
        gray = (np.asarray(upright) >> 8).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(gray[..., None], 3, axis=2))
    return np.ascontiguousarray(np.asarray(upright.convert("RGB")))


def _take_samples(path: Path, upright: Image.Image, raw: str) -> NDArray[np.uint8] | NDArray[np.uint16]:
    if upright.mode.startswith("I;16"):
        return np.ascontiguousarray(np.asarray(upright)[..., None].astype(np.uint16))
    if "16" in raw:
        raise ImageError(f"{path} has 16 bits per channel, of which Pillow keeps 8; run: pip install 'pyvips[binary]'")
    color, clear = upright.mode not in ("1", "L", "LA"), upright.has_transparency_data
    samples = np.asarray(upright.convert(("RGBA" if clear else "RGB") if color else "LA" if clear else "L"))
    return np.ascontiguousarray(samples.reshape(*samples.shape[:2], -1))


def _read(path: Path, take: Callable[[Path, Image.Image, str], SamplesT]) -> SamplesT:
    """What `take` makes of the picture, turned upright, and of what its file holds, as Pillow writes that."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        content = read_bytes(path, MAX_PIXELS)
        with Image.open(io.BytesIO(content), formats=list(_FORMATS)) as picture:
            refuse_size(path, *picture.size, MAX_PIXELS)
            refuse_growth(path, *picture.size, len(picture.getbands()), len(content))
            check_file = _FORMATS[str(picture.format)].check_file
            if check_file is not None:
                check_file(path, *picture.size, content)
            if _has_more(picture):
                raise ImageError(f"{path} is animated or has several pages; give a file with one picture")
            if picture.mode not in _TAKEN_MODES:
                raise ImageError(f"{path} is a picture of mode {picture.mode}; convert it to 8-bit RGB first")
            said = [tile[3] if isinstance(tile[3], str) else next(iter(tile[3] or ()), "") for tile in picture.tile]
            return take(path, ImageOps.exif_transpose(picture), " ".join(map(str, said)))
    except UnidentifiedImageError as error:
        known = join(form.name for form in _FORMATS.values())
        raise ImageError(f"{path} is not a picture that can be read; give a {known} file") from error
    except Image.DecompressionBombError as error:
        raise _too_large(path, error) from error
    except MemoryError as error:
        raise ImageError(f"{path} takes more memory than there is; save it anew as PNG") from error
    except _DAMAGE as error:
        raise ImageError(f"{path} is a damaged or incomplete picture ({error}); get it anew") from error


def _has_more(picture: ImageFile) -> bool:
    """Whether there is a second page; Pillow's own count of them would read each, of thousands."""
    try:
        picture.seek(1)
    except EOFError:
        picture.seek(0)
        return False
    return True


def _too_large(path: Path, error: Exception) -> ImageError:
    return ImageError(f"{path} is larger than Pillow decodes ({error}); save it as PNG or TIFF")


def _read_bmp_size(path: Path, content: bytes) -> tuple[int, int]:
    """Width and height that the header of a BMP file names.

    Raises:
        ImageError: cut short, a width or height that is none, or fewer bytes than the samples take.
    """
    old = content[14:18] == b"\x0c\0\0\0"  # OS/2's header of 12 bytes has sides of two
    form, at = ("<HHHH", 18) if old else ("<iiHHI", 18)
    if len(content) < at + struct.calcsize(form):
        raise ImageError(f"{path} is a damaged or incomplete BMP picture (its header is cut short); get it anew")
    width, height, _, bits, *packing = struct.unpack_from(form, content, at)
    height = abs(height)  # negative: rows from the top
    if width < 1 or height < 1:
        raise ImageError(f"{path} is a damaged BMP picture (it says to be {width}x{height} pixels); get it anew")
    packed = packing[:1] in ([1], [2])
    if not packed and (width * bits + 31) // 32 * 4 * height > len(content):
        raise ImageError(
            f"{path} is a damaged or incomplete BMP picture ({width}x{height} pixels of {bits} bits take more than its "
            f"{len(content)} bytes); get it anew"
        )
    return width, height


def read_bmp(path: Path, content: bytes, max_pixels: int | None) -> NDArray[np.uint8]:
    """Decode a BMP file.

    Returns:
        H x W x C with C = 1 (gray), 3 (RGB; palettes too) or 4 (with alpha).

    Raises:
        ImageError: damaged or cut short, or more than `max_pixels`; None: any size is taken.
    """
    from PIL import Image

    refuse_size(path, *_read_bmp_size(path, content), max_pixels)
    try:
        with Image.open(io.BytesIO(content), formats=["BMP"]) as picture:
            mode = {"1": "L", "P": "RGB"}.get(picture.mode, picture.mode)
            pixels = np.asarray(picture.convert(mode))
    except Image.DecompressionBombError as error:
        raise _too_large(path, error) from error
    except _DAMAGE as error:
        raise ImageError(f"{path} is a damaged or incomplete BMP picture ({error}); get it anew") from error
    return np.ascontiguousarray(pixels if pixels.ndim == 3 else pixels[..., None])
