"""Real photographs as network inputs, the same for `verify` and `bench`. No torch here."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sr_deploy.bundle import Shape
from sr_deploy.imaging.codec import bundled_photographs, read_training_image
from sr_deploy.imaging.photographs import crop_to_multiple, cut_middle
from sr_deploy.imaging.resize import downscale_bicubic
from sr_deploy.measure.quality import LUMA_WEIGHTS

# ITU-R BT.601, full range: what a gray network is shown.
_LUMA = np.array(LUMA_WEIGHTS, dtype=np.float32)


def photograph_batch(shape: Shape, channels: int, scale: int) -> NDArray[np.float32]:
    """A batch of low-resolution photographs, always the same for the same arguments.

    Each image of the batch is another of scikit-image's photographs, shrunk by `scale` as a network's input would be,
    cut from the middle; one that is smaller than asked for is continued by mirroring.

    Args:
        shape: batch, height and width of the result.
        channels: 3 (RGB) or 1 (gray).
        scale: of the network.

    Returns:
        N x channels x H x W, float32 in [0, 1], contiguous.
    """
    names = sorted(bundled_photographs())
    batch = np.empty((shape.n, channels, shape.h, shape.w), dtype=np.float32)
    for index in range(shape.n):
        image_HWC = cut_middle(_small_photograph(names[index % len(names)], scale), shape.h, shape.w)
        pixels = image_HWC.astype(np.float32) / np.float32(255)
        batch[index] = pixels.transpose(2, 0, 1) if channels == 3 else (pixels @ _LUMA)[None]
    return batch


@lru_cache(maxsize=32)  # all of them at a scale or three: with fewer, a batch that goes round them finds none again
def _small_photograph(name: str, scale: int) -> NDArray[np.uint8]:
    hr = read_training_image(bundled_photographs()[name])
    return downscale_bicubic(crop_to_multiple(hr, scale), scale)
