"""What a picture may take, told before anything of it is decoded."""

from __future__ import annotations

import os
from pathlib import Path

from sr_deploy.errors import ImageError, InputError
from sr_deploy.files import require_file
from sr_deploy.untrusted import open_regular

MAX_PIXELS = 200_000_000
"""Largest picture that is decoded where nobody allows more."""
_BYTES_PER_PIXEL = 8
_BESIDE_PIXELS = 1 << 26
_LARGE = 1 << 28
_MOST_GROWTH = 250
_MORE = "upscale takes more with --max-megapixels (max_pixels in Python)"


def require_image(path: Path) -> Path:
    """Check that there is a file, before anything is loaded for it.

    Raises:
        ImageError: there is nothing, or a folder, or the file cannot be read.
    """
    try:
        return require_file(path, "a picture")
    except InputError as error:
        raise ImageError(str(error)) from error


def read_bytes(path: Path, max_pixels: int | None) -> bytes:
    """All of a picture's file.

    Raises:
        ImageError: no plain file, it cannot be read, or it has more bytes than `max_pixels` of 16-bit RGBA, profiles
            and EXIF take; None: any.
    """
    require_image(path)
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if max_pixels is not None and size > max_pixels * _BYTES_PER_PIXEL + _BESIDE_PIXELS:
                raise ImageError(
                    f"{path} has {size} bytes, more than a picture of {max_pixels / 1e6:g} megapixels can need, the "
                    f"largest that is taken; {_MORE}"
                )
            return stream.read()
    except MemoryError as error:
        raise ImageError(
            f"{path} does not fit into the memory that is free; use --stream or a larger machine"
        ) from error
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror or error}") from error


def refuse_size(path: Path, width: int, height: int, max_pixels: int | None) -> None:
    """Refuse a picture that is too large.

    Raises:
        ImageError: more than `max_pixels`; None: any size is taken.
    """
    if max_pixels is not None and width * height > max_pixels:
        raise ImageError(
            f"{path} is {width}x{height}, {width * height / 1e6:.1f} megapixels; at most {max_pixels / 1e6:g} are "
            f"taken, against decompression bombs: {_MORE}"
        )


def refuse_growth(path: Path, width: int, height: int, pixel_bytes: int, size: int) -> None:
    """Refuse a large picture out of a file that is too small to hold any but an empty one.

    Args:
        path: for messages.
        width: in pixels.
        height: in pixels.
        pixel_bytes: that a pixel takes when it is decoded.
        size: of the file, in bytes.

    Raises:
        ImageError: a decompression bomb.
    """
    unpacked = width * height * pixel_bytes
    if unpacked > _LARGE and unpacked > _MOST_GROWTH * size:
        raise ImageError(
            f"{path} has {size} bytes and would take {unpacked} as a picture of {width}x{height}, more than "
            f"{_MOST_GROWTH} times as many: no photograph compresses that much; cut it into pieces if it is meant so"
        )
