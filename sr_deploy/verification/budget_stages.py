"""The error budget: what each stage between the trained network and a picture on disk takes away. No torch here.

The stages are shown the same photographs. What is lost is counted in dB of PSNR against the photographs that the inputs
were made of, which is what a viewer could notice; how far a stage is from PyTorch in FP32, and from the stage before,
stands beside it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sr_deploy.bundle import BudgetStage
from sr_deploy.imaging.codec import bundled_photographs, read_image, read_training_image, write_image
from sr_deploy.imaging.convert import to_image, to_nchw
from sr_deploy.imaging.photographs import ImagePair, cut_middle
from sr_deploy.imaging.resize import downscale_bicubic
from sr_deploy.measure.quality import LUMA_WEIGHTS, psnr

Outputs = list[NDArray[np.float32]]
"""One for each photograph, 1 x C x H x W."""

# ITU-R BT.601, full range, as for the inputs of gray networks elsewhere.
_LUMA = np.array(LUMA_WEIGHTS, np.float32)
_WORK = 16e9
"""Multiply-adds that a stage may spend on more than one photograph."""
_MOST = 4
_TILE = 32
_HEIGHT = 64
_MIN_WIDTH = 128
_MAX_PIXELS = 2**18


@dataclass(frozen=True)
class Stage:
    """What a stage made of the photographs."""

    name: str
    """As in `ONNX FP16`."""
    runs: str
    """Backend and precision that ran."""
    outputs: Outputs
    """Not clamped."""
    file: str | None = None
    """The file that was run."""


def choose_images(
    channels: int,
    scale: int,
    multiple: int,
    *,
    halo: int,
    multiply_adds: float,
    fixed: tuple[int | None, int | None] = (None, None),
    least: tuple[int, int] = (1, 1),
) -> list[ImagePair]:
    """Photographs wide enough to be cut into tiles, as many as their cost allows.

    Args:
        channels: 1 or 3.
        scale: of the network.
        multiple: of height and width of inputs.
        halo: overlap of tiles, in input pixels.
        multiply_adds: of one input pixel.
        fixed: height and width of inputs, where the graph takes one alone.
        least: height and width that the graph takes at least.
    """
    height, width = _HEIGHT, max(_MIN_WIDTH, 2 * halo + 2 * _TILE)
    if fixed[0]:  # what is fixed may be large; then the other side is reduced
        width = max(least[1], min(width, _MAX_PIXELS // fixed[0]))
    if fixed[1]:
        height = max(least[0], min(height, _MAX_PIXELS // fixed[1]))
    height, width = fixed[0] or _round_up(height, multiple), fixed[1] or _round_up(width, multiple)
    count = int(max(1, min(_MOST, _WORK // (height * width * max(multiply_adds, 1)))))
    return [_cut_image(path, channels, scale, height, width) for path in list(bundled_photographs().values())[:count]]


def tile_side(multiple: int) -> int:
    """Core of the tiles that photographs are cut into."""
    return _round_up(_TILE, multiple)


def write_and_read(outputs: Sequence[NDArray[np.float32]]) -> Outputs:
    """What comes back from an 8-bit PNG file."""
    read: Outputs = []
    with tempfile.TemporaryDirectory(prefix="sr-deploy-") as folder:
        path = Path(folder, "sr.png")
        for sr_NCHW in outputs:
            write_image(path, to_image(sr_NCHW))
            read.append(to_nchw(read_image(path, channels=sr_NCHW.shape[1])))
    return read


def make_stages(stages: Sequence[Stage], truth: Sequence[NDArray[np.float32]]) -> tuple[BudgetStage, ...]:
    """The figures of a chain, whose first stage is the oracle.

    Args:
        stages: in their order.
        truth: the photographs themselves.
    """
    rows: list[BudgetStage] = []
    oracle = stages[0].outputs
    for number, stage in enumerate(stages):
        before = stages[max(0, number - 1)].outputs
        truth_db = measure_psnr(stage.outputs, truth)
        rows.append(
            BudgetStage(
                name=stage.name,
                runs=stage.runs,
                file=stage.file,
                psnr_db=measure_psnr(stage.outputs, oracle),
                step_psnr_db=measure_psnr(stage.outputs, before),
                truth_psnr_db=truth_db,
                lost_db=0.0 if number == 0 else _lost(rows[-1].truth_psnr_db, truth_db),
            )
        )
    return tuple(rows)


def measure_psnr(outputs: Sequence[NDArray[np.float32]], others: Sequence[NDArray[np.float32]]) -> float | None:
    """PSNR over all pictures together, clamped to [0, 1]; None if equal, 0 if a value is not finite."""
    squares = samples = 0.0
    for one, other in zip(outputs, others, strict=True):
        if not np.isfinite(one).all():
            return 0.0
        squares += float(np.square(np.clip(one, 0, 1).astype(np.float64) - np.clip(other, 0, 1)).sum())
        samples += one.size
    return None if squares == 0 else psnr(squares / samples)


def describe_images(photographs: Sequence[ImagePair]) -> str:
    """As in `4 photographs of 64x128`."""
    h, w = photographs[0].lr.shape[:2]
    return f"{len(photographs)} photograph{'s' if len(photographs) > 1 else ''} of {h}x{w}"


def _lost(before: float | None, now: float | None) -> float:
    return 0.0 if before is None or now is None else round(before - now, 6) + 0.0


def _cut_image(path: Path, channels: int, scale: int, height: int, width: int) -> ImagePair:
    hr = cut_middle(read_training_image(path), height * scale, width * scale)
    if channels == 1:
        hr = np.rint(hr.astype(np.float32) @ _LUMA).astype(np.uint8)[..., None]
    return ImagePair(downscale_bicubic(hr, scale), hr)


def _round_up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple
