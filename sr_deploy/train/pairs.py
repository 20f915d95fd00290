"""From the sampler's 8-bit patches to what the networks see: by the papers' bicubic, or by the recipe's degradation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sr_deploy.train.degradation import Degrader, PairPool, TrainingPair
from sr_deploy.train.recipe import Recipe
from sr_deploy.train.sampling import Batch

PairMaker = Callable[[Batch], TrainingPair]
"""Gives the pair of a batch, on the device: N x C x H x W, FP32 in [0, 1]."""


def build_pool(recipe: Recipe, rank: int) -> PairPool | None:
    """The pool of one process, or None where the recipe has none; processes exchange differently."""
    if recipe.degradation is None or recipe.degradation.pool == 0:
        return None
    return PairPool(recipe.degradation.pool, recipe.seed + rank)


def build_pair_maker(recipe: Recipe, device: torch.device, pool: PairPool | None) -> PairMaker:
    """What turns a batch into a pair; with a pool, a call changes it."""
    if recipe.degradation is None:
        return lambda batch: _keep_pair(batch, device)
    degrader = Degrader(
        recipe.degradation, scale=recipe.scale, patch_size=recipe.data.patch_size, seed=recipe.seed, device=device
    )

    def degrade(batch: Batch) -> TrainingPair:
        pair = degrader.degrade(to_tensor(batch.hr, device), batch.step, batch.first_sample)
        return pool.exchange(pair, batch.step) if pool is not None else pair

    return degrade


def _keep_pair(batch: Batch, device: torch.device) -> TrainingPair:
    hr_NCHW = to_tensor(batch.hr, device)
    return TrainingPair(lr_NCHW=to_tensor(batch.lr, device), hr_NCHW=hr_NCHW, target_NCHW=hr_NCHW)


def to_tensor(images_NHWC: NDArray[np.uint8], device: torch.device) -> Tensor:
    """N x C x H x W in [0, 1] on the device, FP32."""
    pixels = torch.from_numpy(images_NHWC)
    if device.type == "cuda":
        pixels = pixels.pin_memory().to(device, non_blocking=True)
    return pixels.permute(0, 3, 1, 2).float().div_(255).contiguous()
