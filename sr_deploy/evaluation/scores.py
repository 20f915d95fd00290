"""How near a network comes to originals: figures for each picture beside bicubic's, and the crops where it fails most.

No network here: what enlarges is handed in as a function, and so is LPIPS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sr_deploy.config import Document
from sr_deploy.imaging.photographs import ImagePair
from sr_deploy.imaging.resize import upscale_bicubic
from sr_deploy.imaging.sheet import Cell, compare_crops, compose_sheet, find_worst_window
from sr_deploy.measure.image_scores import score_image
from sr_deploy.measure.niqe import try_niqe
from sr_deploy.measure.quality import EQUAL_DB, Distance, ImageScores, psnr

MAX_CROPS = 6
"""Rows of the picture of the worst crops."""
_CROP_SIDE = 176

Upscale = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""H x W x C to (H * scale) x (W * scale) x C, 8 bit."""


class ImageEvaluation(Document):
    """One picture of a test set."""

    name: str
    """File name of the original without suffix."""
    width: int
    """Of the original as compared, in pixels."""
    height: int
    """Of the original as compared, in pixels."""
    model: ImageScores
    bicubic: ImageScores
    """The same images by bicubic interpolation."""
    original_niqe: float | None = None
    """NIQE of the original itself."""


@dataclass(frozen=True)
class WorstCrop:
    """The place of a picture where the network is furthest from the original."""

    psnr_db: float
    """There, on all channels."""
    cells: tuple[Cell, ...]
    """Low resolution, bicubic, network, original."""


def evaluate_pair(
    name: str,
    pair: ImagePair,
    upscale: Upscale,
    scale: int,
    *,
    with_niqe: bool = True,
    lpips: Distance | None = None,
) -> tuple[ImageEvaluation, WorstCrop]:
    """Enlarge one picture, score it beside bicubic's enlargement, and crop where it is worst.

    Raises:
        ShapeError: the picture is too small to score.
        BackendError: the upscaler fails, or gives NaN or infinite values.
    """
    bicubic, sr = upscale_bicubic(pair.lr, scale), upscale(pair.lr)
    sr_scores, bicubic_scores = (
        score_image(enlarged, pair.hr, scale, shown=(enlarged, pair.hr), with_niqe=with_niqe, lpips=lpips)
        for enlarged in (sr, bicubic)
    )
    evaluation = ImageEvaluation(
        name=name,
        width=pair.hr.shape[1],
        height=pair.hr.shape[0],
        model=sr_scores,
        bicubic=bicubic_scores,
        original_niqe=try_niqe(pair.hr, scale) if with_niqe else None,
    )
    return evaluation, _crop_worst(name, pair, bicubic, sr, scale)


def draw_worst_crops(crops: Iterable[WorstCrop]) -> NDArray[np.uint8]:
    """The worst of the worst, a row for each: low resolution, bicubic, network, original.

    Raises:
        ShapeError: there is none.
    """
    worst = sorted(crops, key=lambda crop: crop.psnr_db)[:MAX_CROPS]
    return compose_sheet([crop.cells for crop in worst])


def _crop_worst(name: str, pair: ImagePair, bicubic: NDArray[np.uint8], sr: NDArray[np.uint8], scale: int) -> WorstCrop:
    window = find_worst_window(sr, pair.hr, _CROP_SIDE)
    of_bicubic, of_network = (_window_psnr(enlarged[window], pair.hr[window]) for enlarged in (bicubic, sr))
    rows, columns = window
    place = f"{name}\nfrom column {columns.start}, row {rows.start}"
    captions = (place, f"bicubic, {of_bicubic:.2f} dB here", f"network, {of_network:.2f} dB here", "original")
    cells = compare_crops((pair.lr, bicubic, sr, pair.hr), captions, scale, window)
    # Copies: views would keep every picture of the set in memory.
    return WorstCrop(of_network, tuple(Cell(cell.image.copy(), cell.caption) for cell in cells))


def _window_psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    error = float(np.mean(np.square(a.astype(np.float64) - b)))
    return min(EQUAL_DB, psnr(error, 255))
