"""Held-out photographs as the recipe degrades them, with draws that never change."""

from __future__ import annotations

import numpy as np
import torch

from sr_deploy.arch.registry import input_multiple
from sr_deploy.imaging.convert import to_image
from sr_deploy.measure.quality import SSIM_WINDOW
from sr_deploy.train.originals import OriginalPair, Samples
from sr_deploy.train.pairs import build_pair_maker
from sr_deploy.train.recipe import Recipe
from sr_deploy.train.sampling import Batch

_FIRST_STEP = 2**53
"""Above that of any training, so that validation has draws of its own."""


def degrade_middle(recipe: Recipe, hr: Samples, index: int) -> OriginalPair | None:
    """The middle of a photograph, of up to the canvas along each side, and its low resolution.

    Args:
        recipe: its seed and its degradation decide, with `index`, what is drawn.
        hr: H x W x C, sides are multiples of what the network takes.
        index: of the photograph.

    Returns:
        None without a degradation, and of photographs too small to score.
    """
    if recipe.degradation is None:
        return None
    multiple = recipe.scale * input_multiple(recipe.arch_spec())
    side = min(recipe.degradation.canvas, *hr.shape[:2]) // multiple * multiple
    if side < max(SSIM_WINDOW + 2 * recipe.scale, recipe.degradation.min_side()):
        return None
    top, left = ((length - side) // 2 for length in hr.shape[:2])
    middle = np.ascontiguousarray(hr[top : top + side, left : left + side])
    whole = recipe.model_copy(update={"data": recipe.data.model_copy(update={"patch_size": side})})
    batch = Batch(_FIRST_STEP + index, first_sample=0, lr=middle[None, :0, :0], hr=middle[None])
    pair = build_pair_maker(whole, torch.device("cpu"), None)(batch)
    return OriginalPair(to_image(pair.lr_NCHW.numpy()), middle)
