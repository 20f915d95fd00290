"""All figures of one enlarged picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sr_deploy.measure.niqe import try_niqe
from sr_deploy.measure.quality import Distance, ImageScores, score_pair


def score_image(
    sr: NDArray[np.unsignedinteger[Any]],
    hr: NDArray[np.unsignedinteger[Any]],
    scale: int,
    *,
    shown: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    with_niqe: bool = True,
    lpips: Distance | None = None,
) -> ImageScores:
    """Score a picture against its original.

    Args:
        sr: H x W x C, 8 or 16 bit, which PSNR and SSIM are computed from.
        hr: the same shape and depth.
        scale: pixels left out at each border.
        shown: both at 8 bit, as NIQE and LPIPS take them.
        with_niqe: whether to compute NIQE.
        lpips: what computes LPIPS; None: nothing does.

    Raises:
        ShapeError: the shapes differ, or are too small.
    """
    inner = slice(scale, -scale)
    seen, wanted = shown
    return ImageScores(
        **score_pair(sr, hr, scale).model_dump(),
        niqe=try_niqe(seen, scale) if with_niqe else None,
        lpips=lpips(seen[inner, inner], wanted[inner, inner]) if lpips is not None else None,
    )
