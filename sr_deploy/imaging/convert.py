"""Between 8-bit pictures (H x W x C) and what networks take (N x C x H x W in [0, 1])."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import ShapeError


def to_nchw(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A picture as a batch of one.

    Args:
        image: H x W x C, 8 bit.

    Returns:
        1 x C x H x W in [0, 1], contiguous.

    Raises:
        ShapeError: not three axes.
    """
    if image.ndim != 3:
        raise ShapeError(f"a picture has H x W x C, not {' x '.join(map(str, image.shape)) or 'no axes'}")
    batch = np.ascontiguousarray(image.transpose(2, 0, 1)[None], dtype=np.float32)
    batch /= np.float32(255)
    return batch


def to_image(sr_NCHW: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A batch of one as a picture: clamped to [0, 1], scaled to 255, rounded to the nearest (ties to even).

    Args:
        sr_NCHW: 1 x C x H x W of finite values (whoever may meet others checks before), any range.

    Returns:
        H x W x C, 8 bit, contiguous.

    Raises:
        ShapeError: not a batch of one.
    """
    if sr_NCHW.ndim != 4 or sr_NCHW.shape[0] != 1:
        raise ShapeError(f"one picture is 1 x C x H x W, not {' x '.join(map(str, sr_NCHW.shape)) or 'no axes'}")
    pixels = np.clip(sr_NCHW[0].astype(np.float32, copy=False), 0, 1)
    pixels *= np.float32(255)
    np.rint(pixels, out=pixels)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0).astype(np.uint8))
