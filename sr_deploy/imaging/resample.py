"""Pictures to any size, through Pillow: for scales that a network does not have, and for transparency.

Not through libvips: what it enlarges is half a pixel out of place (8.18, `resize` of a single bright pixel), so that
transparency would no longer lie on the colors it belongs to.
"""

from __future__ import annotations

from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import ShapeError
from sr_deploy.imaging.opening import Pixels

Kernel = Literal["lanczos", "bicubic"]
"""Lanczos with three lobes, or Keys' cubic with a = -0.5; both widened when shrinking, so that nothing aliases."""


def resample(image: Pixels, width: int, height: int, kernel: Kernel) -> Pixels:
    """Resize to exactly that size, each side by its own factor, in the type of the picture.

    Args:
        image: H x W x C, C = 1 or 3.
        width: of the result, at least 1.
        height: of the result, at least 1.
        kernel: `lanczos` keeps most detail; `bicubic` overshoots less.

    Returns:
        height x width x C; `image` itself if it has that size already.

    Raises:
        ShapeError: an empty side.
    """
    from PIL import Image

    if min(width, height) < 1:
        raise ShapeError(f"a picture has sides of at least 1 pixel, not {width}x{height}")
    if image.shape[:2] == (height, width):
        return image
    method = Image.Resampling.LANCZOS if kernel == "lanczos" else Image.Resampling.BICUBIC
    if image.dtype == np.uint8:
        whole = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
        return cast("Pixels", np.asarray(whole.resize((width, height), method)).reshape(height, width, -1))
    result = np.empty((height, width, image.shape[2]), np.uint16)
    for channel in range(image.shape[2]):  # Pillow has no colors of 16 bit, but it has floating point
        plane: NDArray[np.float32] = image[..., channel].astype(np.float32)
        resized = np.asarray(Image.fromarray(plane).resize((width, height), method))
        result[..., channel] = np.clip(np.rint(resized), 0, 65535)
    return result
