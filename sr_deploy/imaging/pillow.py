"""What Pillow decodes, which comes with scikit-image: BMP, unknown to pyvips, and all else where that is absent."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import ImageError

_TAKEN_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "I;16", "I;16B", "I;16L")


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Decode a picture to 8-bit RGB: gray is repeated, alpha dropped, 16 bit cut to its upper 8.

    Returns:
        H x W x 3, turned upright by its EXIF orientation.

    Raises:
        ImageError: damaged or cut short, an unknown format, CMYK, animated, floating point.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            if getattr(picture, "n_frames", 1) > 1:
                raise ImageError(f"{path} is animated or has several pages; give a file with one picture")
            if picture.mode not in _TAKEN_MODES:
                raise ImageError(f"{path} is a picture of mode {picture.mode}; convert it to 8-bit RGB first")
            upright = ImageOps.exif_transpose(picture)
            if upright.mode.startswith("I;16"):
                gray = (np.asarray(upright) >> 8).astype(np.uint8)
                return np.ascontiguousarray(np.repeat(gray[..., None], 3, axis=2))
            return np.ascontiguousarray(np.asarray(upright.convert("RGB")))
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is no picture that can be read; give a JPEG, PNG, WebP or TIFF file") from error
    except (OSError, EOFError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError) as error:
        # Its decoders raise each of these for damaged files.
        raise ImageError(f"{path} is a damaged or incomplete picture ({error}); get it anew") from error


def read_bmp_size(content: bytes) -> tuple[int, int]:
    """Width and height that the header of a BMP file names; zeros where it is cut short."""
    header = content[18:26].ljust(8, b"\0")
    if content[14:18] == b"\x0c\0\0\0":  # OS/2's header of 12 bytes has sides of two
        return int.from_bytes(header[:2], "little"), int.from_bytes(header[2:4], "little")
    return (
        abs(int.from_bytes(header[:4], "little", signed=True)),
        abs(int.from_bytes(header[4:], "little", signed=True)),  # negative: rows from the top
    )


def read_bmp(path: Path, content: bytes) -> NDArray[np.uint8]:
    """Decode a BMP file.

    Returns:
        H x W x C with C = 1 (gray), 3 (RGB; palettes too) or 4 (with alpha).

    Raises:
        ImageError: damaged or cut short.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=["BMP"]) as picture:
            mode = {"1": "L", "P": "RGB"}.get(picture.mode, picture.mode)
            pixels = np.asarray(picture.convert(mode))
    except (OSError, EOFError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path} is a damaged or incomplete BMP picture ({error}); get it anew") from error
    return np.ascontiguousarray(pixels if pixels.ndim == 3 else pixels[..., None])
