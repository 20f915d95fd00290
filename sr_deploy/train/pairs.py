"""From the sampler's patches to what the networks see: by the papers' bicubic, or by the recipe's degradation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sr_deploy.measure.quality import LUMA_WEIGHTS
from sr_deploy.train.degradation import Degrader, PairPool, TrainingPair
from sr_deploy.train.originals import Samples
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
        deep = batch.hr.dtype == np.uint16
        color_NCHW = to_tensor(batch.hr, device).expand(-1, 3, -1, -1)
        pair = degrader.degrade(color_NCHW.contiguous(), batch.step, batch.first_sample, deep=deep)
        pair = to_gray(pair) if recipe.channels == 1 else pair
        return pool.exchange(pair, batch.step, deep=deep) if pool is not None else pair

    return degrade


def _keep_pair(batch: Batch, device: torch.device) -> TrainingPair:
    hr_NCHW = to_tensor(batch.hr, device)
    return TrainingPair(lr_NCHW=to_tensor(batch.lr, device), hr_NCHW=hr_NCHW, target_NCHW=hr_NCHW)


def to_gray(pair: TrainingPair) -> TrainingPair:
    """A pair that was made of three equal channels: the luma of the low resolution, on levels of 255."""
    weights = torch.tensor(LUMA_WEIGHTS, device=pair.lr_NCHW.device).view(1, 3, 1, 1)
    lr_NCHW = (pair.lr_NCHW * weights).sum(dim=1, keepdim=True).mul_(255).round_().div_(255)
    hr_NCHW = pair.hr_NCHW[:, :1].contiguous()
    plain = pair.target_NCHW is pair.hr_NCHW
    return TrainingPair(lr_NCHW, hr_NCHW, hr_NCHW if plain else pair.target_NCHW[:, :1].contiguous())


def to_tensor(images_NHWC: Samples, device: torch.device) -> Tensor:
    """N x C x H x W in [0, 1] on the device, FP32."""
    pixels = torch.from_numpy(images_NHWC)
    if device.type == "cuda":
        pixels = pixels.pin_memory().to(device, non_blocking=True)
    return pixels.permute(0, 3, 1, 2).float().div_(np.iinfo(images_NHWC.dtype).max).contiguous()
