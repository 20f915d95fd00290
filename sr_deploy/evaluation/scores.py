"""How near a network comes to originals: figures for each picture beside bicubic's, and the crops where it fails most.

No network here: what enlarges is handed in as a function, and so is LPIPS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sr_deploy.config import Document
from sr_deploy.errors import ShapeError
from sr_deploy.evaluation.niqe import niqe
from sr_deploy.imaging.photographs import ImagePair
from sr_deploy.imaging.resize import upscale_bicubic
from sr_deploy.imaging.sheet import Cell, compare_crops, compose_sheet, find_worst_window
from sr_deploy.measure.quality import EQUAL_DB, Scores, psnr, score_pair

MAX_CROPS = 6
"""Rows of the picture of the worst crops."""
_CROP_SIDE = 176

Upscale = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""H x W x C to (H * scale) x (W * scale) x C, 8 bit."""
Distance = Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]
"""Of two pictures of one shape, H x W x C, 8 bit."""


class ImageScores(Scores):
    """Quality of one enlarged picture, or the mean of many. `scale` pixels are left out at each border throughout."""

    niqe: float | None = None
    """Lower is better; None: not asked for, or the picture is too small or too flat; a mean leaves such ones out."""
    lpips: float | None = None
    """Lower is better; None: not asked for."""


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
        _score(enlarged, pair.hr, scale, with_niqe=with_niqe, lpips=lpips) for enlarged in (sr, bicubic)
    )
    evaluation = ImageEvaluation(
        name=name,
        width=pair.hr.shape[1],
        height=pair.hr.shape[0],
        model=sr_scores,
        bicubic=bicubic_scores,
        original_niqe=_try_niqe(pair.hr, scale) if with_niqe else None,
    )
    return evaluation, _crop_worst(name, pair, bicubic, sr, scale)


def average_scores(scores: Sequence[ImageScores]) -> ImageScores:
    """The mean of each figure; of NIQE and LPIPS over the pictures that have them."""
    columns = {name: [getattr(one, name) for one in scores] for name in ImageScores.model_fields}
    return ImageScores(**{name: mean_of(values) for name, values in columns.items()})


def mean_of(values: Iterable[float | None]) -> float | None:
    """Of those that are there; None if none is."""
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def draw_worst_crops(crops: Iterable[WorstCrop]) -> NDArray[np.uint8]:
    """The worst of the worst, a row for each: low resolution, bicubic, network, original.

    Raises:
        ShapeError: there is none.
    """
    worst = sorted(crops, key=lambda crop: crop.psnr_db)[:MAX_CROPS]
    return compose_sheet([crop.cells for crop in worst])


def _score(
    sr: NDArray[np.uint8], hr: NDArray[np.uint8], scale: int, *, with_niqe: bool, lpips: Distance | None
) -> ImageScores:
    inner = slice(scale, -scale)
    return ImageScores(
        **score_pair(sr, hr, scale).model_dump(),
        niqe=_try_niqe(sr, scale) if with_niqe else None,
        lpips=lpips(sr[inner, inner], hr[inner, inner]) if lpips is not None else None,
    )


def _try_niqe(image: NDArray[np.uint8], crop_border: int) -> float | None:
    try:
        return niqe(image, crop_border)
    except ShapeError:
        return None  # too small or too flat: the record says so, the other figures hold


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
