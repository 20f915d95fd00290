"""Photographs as pairs of low and high resolution, and where crops of them lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sr_deploy.imaging.convert import SampleT, to_nchw


@dataclass(frozen=True)
class ImagePair:
    """A photograph, or a crop of one, at both resolutions."""

    lr: NDArray[np.uint8]
    """H x W x C; 0 x 0 x C where low resolution is made elsewhere."""
    hr: NDArray[np.uint8]
    """(H * scale) x (W * scale) x C."""

    @property
    def network_input(self) -> NDArray[np.float32]:
        """What a network is shown: 1 x C x H x W in [0, 1]."""
        return to_nchw(self.lr)


def crop_to_multiple(image: NDArray[SampleT], multiple: int) -> NDArray[SampleT]:
    """Leave out rows at the bottom and columns at the right until both sides are multiples; contiguous."""
    height, width = (side - side % multiple for side in image.shape[:2])
    return np.ascontiguousarray(image[:height, :width])


def cut_middle(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The middle of a picture H x W x C; one that is smaller is continued by mirroring, below and to the right.

    Returns:
        `height` x `width` x C, contiguous.
    """
    missing = [max(0, wanted - have) for wanted, have in zip((height, width), image.shape[:2], strict=True)]
    if any(missing):
        image = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def draw_corner(image: NDArray[np.unsignedinteger[Any]], side: int, random: np.random.Generator) -> tuple[int, int]:
    """First row and column of a square anywhere in a picture H x W x C; 0 along an axis that is shorter."""
    top, left = (int(random.integers(max(length - side, 0) + 1)) for length in image.shape[:2])
    return top, left
