"""Weighted sums along the axes of images: what resizing and wide blurs come down to.

Each row of a result adds up a few rows of the image, as a bag of an embedding does; torch does that at the speed of
memory on a CPU. Columns are done as rows, turned over.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Taps:
    """What each place of an axis of the result is made of."""

    positions_LK: Tensor
    """K places of the image's axis for each of L places of the result; whole numbers."""
    weights_LK: Tensor
    """Their factors, float32."""

    def to(self, device: torch.device) -> Taps:
        """The same on another device."""
        return Taps(self.positions_LK.to(device), self.weights_LK.to(device))


def apply_taps(images_NCHW: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Sum along both axes: first along the one that makes turning over cheaper.

    Args:
        images_NCHW: float32.
        rows: of the height, on the images' device.
        columns: of the width, likewise.

    Returns:
        N x C x L of `rows` x L of `columns`.
    """
    if len(rows.positions_LK) > images_NCHW.shape[2]:
        return _sum_rows(_sum_rows(images_NCHW.transpose(2, 3), columns).transpose(2, 3), rows)
    return _sum_rows(_sum_rows(images_NCHW, rows).transpose(2, 3), columns).transpose(2, 3).contiguous()


def _sum_rows(images_NCHW: Tensor, taps: Taps) -> Tensor:
    count, channels, height, width = images_NCHW.shape
    planes = count * channels
    first = torch.arange(0, planes * height, height, device=images_NCHW.device).view(-1, 1, 1)
    summed = F.embedding_bag(
        (taps.positions_LK + first).flatten(0, 1),
        images_NCHW.reshape(planes * height, width),
        mode="sum",
        per_sample_weights=taps.weights_LK.repeat(planes, 1),
    )
    return summed.view(count, channels, -1, width)
