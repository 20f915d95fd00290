"""Held-out photographs: scores beside bicubic's, and preview pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sr_deploy.arch.lpips import LEAST_SIDE, Lpips
from sr_deploy.errors import TrainingError
from sr_deploy.imaging.codec import write_image
from sr_deploy.imaging.convert import SampleT, to_image, to_nchw
from sr_deploy.imaging.encoding import round_to_8bit
from sr_deploy.imaging.resize import upscale_bicubic
from sr_deploy.imaging.sheet import Cell, compare_crops, compose_sheet, find_worst_window
from sr_deploy.measure.image_scores import score_image
from sr_deploy.measure.quality import Distance, ImageScores, average_scores
from sr_deploy.train.degraded_validation import degrade_middle
from sr_deploy.train.headers import tell_progress
from sr_deploy.train.originals import OriginalPair, Samples, raise_depth
from sr_deploy.train.recipe import Recipe
from sr_deploy.train.recipe_images import open_validation_images
from sr_deploy.train.run import HeldOutScores, ValidationResult

_PREVIEW_SIDE = 160
_PREVIEW_ROWS = 4


@dataclass(frozen=True)
class HeldOut:
    """One photograph to validate on."""

    path: Path
    pair: OriginalPair
    """High resolution cropped to whole low-resolution pixels."""
    bicubic: Samples
    """The papers' bicubic enlargement, of the shape of `pair.hr`."""
    bicubic_scores: ImageScores
    """How near it comes."""
    lpips: Distance | None = None
    """What computes LPIPS; None: nothing does."""
    degraded: HeldOut | None = None
    """Its middle, degraded as the recipe trains."""

    @property
    def name(self) -> str:
        """Of its file, without suffix."""
        return self.path.stem


def read_held_out(recipe: Recipe) -> list[HeldOut]:
    """Read the photographs to validate on and score bicubic once.

    Raises:
        InputError: none can be used.
        RecipeError: an unknown name.
    """
    photographs, lpips = open_validation_images(recipe), open_lpips(recipe)
    held_out = []
    count = len(photographs.paths)
    described = tell_progress(photographs.paths, lambda read: f"read {read:,} of {count:,} pictures to validate on")
    for index, path in enumerate(described):
        pair = photographs.pair(index)
        if pair is not None:
            degraded = degrade_middle(recipe, pair.hr, index)
            shown = None if degraded is None else _hold_out(path, degraded, recipe.scale, lpips)
            held_out.append(replace(_hold_out(path, pair, recipe.scale, lpips), degraded=shown))
    return held_out


def open_lpips(recipe: Recipe) -> Distance | None:
    """What computes LPIPS in validations; None where the recipe names no weights.

    Raises:
        InputError: a file does not exist.
        CheckpointError: it holds something else.
    """
    return None if recipe.run.lpips is None else Lpips.read(*(Path(file).expanduser() for file in recipe.run.lpips))


def _hold_out(path: Path, pair: OriginalPair, scale: int, lpips: Distance | None) -> HeldOut:
    bicubic = upscale_bicubic(pair.lr, scale)
    if bicubic.dtype != pair.hr.dtype:
        bicubic, hr = raise_depth([bicubic, pair.hr])
        pair = OriginalPair(pair.lr, hr)
    return HeldOut(path, pair, bicubic, _score(bicubic, pair.hr, scale, lpips), lpips)


def validate(network: nn.Module, held_out: Iterable[HeldOut], scale: int, step: int) -> ValidationResult:
    """Score a network, in FP32 and evaluation mode, on each photograph and on average.

    Raises:
        TrainingError: an output is NaN or infinite.
    """

    def score(photograph: HeldOut) -> HeldOutScores:
        what = f"{photograph.name} after step {step}"
        sr = upscale(network, photograph.pair.lr, what, photograph.pair.hr.dtype)
        model = _score(sr, photograph.pair.hr, scale, photograph.lpips)
        return HeldOutScores(name=photograph.name, model=model, bicubic=photograph.bicubic_scores)

    rows, degraded = [], []
    for photograph in held_out:  # once: it may be a generator
        rows.append(score(photograph))
        if photograph.degraded is not None:
            degraded.append(score(photograph.degraded))
    return ValidationResult(
        step=step,
        model=average_scores([row.model for row in rows]),
        bicubic=average_scores([row.bicubic for row in rows]),
        photographs=tuple(rows),
        degraded=tuple(degraded),
    )


def _score(sr: Samples, hr: Samples, scale: int, lpips: Distance | None) -> ImageScores:
    shown = round_to_8bit(sr), round_to_8bit(hr)
    large = min(hr.shape[:2]) >= LEAST_SIDE + 2 * scale
    return score_image(sr, hr, scale, shown=shown, lpips=lpips if large else None)


@torch.no_grad()
def upscale(network: nn.Module, lr: Samples, what: str, dtype: np.dtype[SampleT]) -> NDArray[SampleT]:
    """Upscale one picture by a network in evaluation mode, on the device where it is; `what` names it in errors.

    The result is H x W x C of `dtype`, 8 or 16 bit.

    Raises:
        TrainingError: the result holds NaN or infinite values.
    """
    device = next(network.parameters()).device
    sr_NCHW = network(torch.from_numpy(to_nchw(lr)).to(device)).float().cpu()
    if not bool(torch.isfinite(sr_NCHW).all()):
        raise TrainingError(
            f"the network gives NaN or infinite values for {what}; "
            "resume from an earlier checkpoint with a lower --set optimizer.learning_rate in a new run"
        )
    return to_image(sr_NCHW.numpy(), dtype)


def write_preview(path: Path, network: nn.Module, held_out: Sequence[HeldOut], scale: int) -> NDArray[np.uint8]:
    """Write crops side by side, a row for each of the first photographs; gives what was written, H x W x 3.

    From left to right: low resolution (nearest), bicubic, the network, the original. The crop is where bicubic is
    furthest from the original.

    Raises:
        OutputError: it cannot be written.
    """
    rows = [_preview_row(network, photograph, scale) for photograph in held_out[:_PREVIEW_ROWS]]
    sheet = compose_sheet(rows)
    write_image(path, sheet)
    return sheet


def _preview_row(network: nn.Module, photograph: HeldOut, scale: int) -> list[Cell]:
    hr, lr = photograph.pair.hr, photograph.pair.lr
    window = find_worst_window(photograph.bicubic, hr, _PREVIEW_SIDE)
    pictures = [
        round_to_8bit(one) for one in (lr, photograph.bicubic, upscale(network, lr, photograph.name, hr.dtype), hr)
    ]
    return compare_crops(pictures, (photograph.name, "bicubic", "network", "original"), scale, window)
