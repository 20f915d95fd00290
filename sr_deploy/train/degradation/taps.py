"""Weighted sums along the axes of images: what resizing and wide blurs come down to.

Each row of a result adds up a few rows of the image, as a bag of an embedding does; torch does that at the speed of
memory on a CPU. Columns, which are scattered in memory, are done some at once: a matrix product of the image's columns
around them with their weights is mostly zeros, and still several times as fast as turning images over twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

_TOGETHER = 32  # columns of a result that are done at once


@dataclass(frozen=True)
class Taps:
    """What each place of an axis of the result is made of."""

    positions_LK: Tensor
    """K places of the image's axis for each of L places of the result; integers."""
    weights_LK: Tensor
    """What each is multiplied by, float32."""
    blocks: tuple[tuple[slice, slice], ...]
    """Places of the result that are done at once, and the places of the image's axis that they are made of."""

    @staticmethod
    def make(positions_LK: Tensor, weights_LK: Tensor, device: torch.device) -> Taps:
        """Of tensors on the host; used on images of the device."""
        # Found here: asking a GPU would wait for all of its work.
        positions = positions_LK.numpy()
        results = (slice(first, first + _TOGETHER) for first in range(0, len(positions), _TOGETHER))
        blocks = tuple((part, slice(int(positions[part].min()), int(positions[part].max()) + 1)) for part in results)
        return Taps(positions_LK.to(device), weights_LK.to(device), blocks)

    @cached_property
    def matrix(self) -> Tensor:
        """The same as a matrix: the weight of each place of the image (rows), up to the last needed, in each result."""
        count = max(needed.stop for _, needed in self.blocks)
        matrix_LW = self.weights_LK.new_zeros(len(self.positions_LK), count)
        return matrix_LW.scatter_add_(1, self.positions_LK, self.weights_LK).T.contiguous()


def apply_taps(images_NCHW: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Sum along both axes: first along the one that leaves the other less to do.

    Args:
        images_NCHW: float32.
        rows: of the height, on the images' device.
        columns: of the width, likewise.

    Returns:
        N x C x L of `rows` x L of `columns`.
    """
    if len(rows.positions_LK) > images_NCHW.shape[2]:
        return _sum_rows(_sum_columns(images_NCHW, columns), rows)
    return _sum_columns(_sum_rows(images_NCHW, rows), columns)


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


def _sum_columns(images_NCHW: Tensor, taps: Taps) -> Tensor:
    lines = images_NCHW.reshape(-1, images_NCHW.shape[3])
    summed = lines.new_empty(len(lines), len(taps.positions_LK))
    for part, needed in taps.blocks:
        torch.mm(lines[:, needed], taps.matrix[needed, part], out=summed[:, part])
    return summed.view(*images_NCHW.shape[:3], -1)
