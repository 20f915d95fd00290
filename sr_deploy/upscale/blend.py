"""Neighboring tiles mixed along their seams, where no halo is wide enough for them to agree.

Along a seam both neighbors' results are there, each the worse the nearer it comes to its own window's edge. A weight
that falls from 1 to 0 as half a cosine wave leads from one to the other, so that no step is left.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sr_deploy.measure.quality import psnr
from sr_deploy.upscale.plan import Tile, TilePlan


class Blender:
    """Takes the used parts of tiles in the order of `TilePlan.tiles`, gives parts that cover the picture once."""

    def __init__(self, plan: TilePlan, scale: int) -> None:
        """`scale`: of the network."""
        self._scale = scale
        self._zone = 2 * plan.blend * scale
        self._right: NDArray[np.float32] | None = None
        self._bottoms: dict[int, NDArray[np.float32]] = {}
        self._weights = ramp(self._zone)
        self._squares = np.zeros(self._zone)  # of differences, for each place across the strip
        self._samples = 0

    @property
    def seam_db(self) -> float | None:
        """PSNR of all blended strips so far against the whole picture at once, judged by how neighbors differ.

        Peak 1, outputs clamped to [0, 1]. In the middle of a strip both neighbors are as far from their edges, so each
        has half of the squared difference. Away from it the one that is nearer to its edge has what the difference has
        beyond that, and the other one no more than in the middle. docs/tiles.md has this beside the truth. None where
        nothing was blended.
        """
        if not self._samples:
            return None
        apart = (self._squares + self._squares[::-1]) / 2 / self._samples
        deep = apart[self._zone // 2] / 2
        near = np.maximum(apart - deep, deep)
        small = np.minimum(self._weights, 1 - self._weights).astype(np.float64)
        return psnr(float(np.mean(small**2 * near + (1 - small) ** 2 * deep)))

    def add(self, tile: Tile, sr: NDArray[np.float32]) -> tuple[int, int, NDArray[np.float32]]:
        """Blend with the tiles before it.

        Args:
            tile: the next one of the plan.
            sr: what is used of its result, 1 x C x H x W.

        Returns:
            Top and left of what is final now, in high-resolution pixels, and its samples.
        """
        top, left = tile.row.used_from * self._scale, tile.column.used_from * self._scale
        if not self._zone:
            return top, left, sr
        if not tile.column.first and self._right is not None:
            sr = self._join(self._right, sr, axis=3)
        if not tile.column.last:
            self._right = sr[..., -self._zone :].copy()
            sr = sr[..., : -self._zone]
        if not tile.row.first:
            sr = self._join(self._bottoms.pop(tile.column.index), sr, axis=2)
        if not tile.row.last:
            self._bottoms[tile.column.index] = sr[:, :, -self._zone :].copy()
            sr = sr[:, :, : -self._zone]
        return top, left, sr

    def _join(self, before: NDArray[np.float32], sr: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
        shape = [1, 1, 1, 1]
        shape[axis] = self._zone
        weights = self._weights.reshape(shape)
        zone = (slice(None),) * axis + (slice(0, self._zone),)
        after = sr[zone]
        joined = sr.copy()
        joined[zone] = before + (after - before) * weights
        apart = np.square(np.clip(after, 0, 1) - np.clip(before, 0, 1), dtype=np.float64)
        self._squares += apart.sum(axis=tuple(other for other in range(4) if other != axis))
        self._samples += apart.size // self._zone
        return joined


def ramp(length: int) -> NDArray[np.float32]:
    """Weights of the tile that comes after, from near 0 to near 1: half a cosine wave, symmetric about one half."""
    position = (np.arange(length) + 0.5) / max(length, 1)
    return (0.5 - 0.5 * np.cos(np.pi * position)).astype(np.float32)
