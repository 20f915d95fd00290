"""Between pictures (H x W x C, 8 or 16 bit) and what networks take (N x C x H x W in [0, 1])."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import ShapeError

SampleT = TypeVar("SampleT", bound=np.unsignedinteger[Any])
"""Type of samples, of 8 or 16 bit."""
_UINT8 = np.dtype(np.uint8)


def to_nchw(image: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.float32]:
    """A picture as a batch of one.

    Args:
        image: H x W x C, 8 or 16 bit.

    Returns:
        1 x C x H x W in [0, 1], contiguous.

    Raises:
        ShapeError: not three axes.
    """
    if image.ndim != 3:
        raise ShapeError(f"a picture has H x W x C, not {' x '.join(map(str, image.shape)) or 'no axes'}")
    batch = np.ascontiguousarray(image.transpose(2, 0, 1)[None], dtype=np.float32)
    batch /= np.float32(np.iinfo(image.dtype).max)
    return batch


def to_image(sr_NCHW: NDArray[np.float32], dtype: np.dtype[SampleT] = _UINT8) -> NDArray[SampleT]:  # type: ignore[assignment]
    """A batch of one as a picture: clamped to [0, 1], scaled to white, rounded to the nearest (ties to even).

    Args:
        sr_NCHW: 1 x C x H x W of finite values (whoever may meet others checks before), any range.
        dtype: of the picture, 8 or 16 bit.

    Returns:
        H x W x C of `dtype`, contiguous.

    Raises:
        ShapeError: not a batch of one.
    """
    if sr_NCHW.ndim != 4 or sr_NCHW.shape[0] != 1:
        raise ShapeError(f"one picture is 1 x C x H x W, not {' x '.join(map(str, sr_NCHW.shape)) or 'no axes'}")
    pixels = np.clip(sr_NCHW[0].astype(np.float32, copy=False), 0, 1)
    pixels *= np.float32(np.iinfo(dtype).max)
    np.rint(pixels, out=pixels)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0).astype(dtype))
