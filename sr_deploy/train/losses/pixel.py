"""Pixel losses, each a mean over all values of a batch, on images in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from sr_deploy.train.recipe import LossRecipe

Criterion = Callable[[Tensor, Tensor], Tensor]


def charbonnier_loss(sr: Tensor, hr: Tensor, epsilon: float) -> Tensor:
    """Mean of sqrt(d^2 + epsilon^2) (LapSRN, eq. 3); close to L1, smooth at 0."""
    return torch.sqrt((sr - hr).square() + epsilon**2).mean()


def build_pixel_loss(recipe: LossRecipe) -> Criterion:
    """The recipe's pixel loss, times its weight. It takes (sr, hr) of one shape and gives a scalar in FP32."""
    measures: dict[str, Criterion] = {
        "l1": F.l1_loss,
        "mse": F.mse_loss,
        "charbonnier": lambda sr, hr: charbonnier_loss(sr, hr, recipe.charbonnier_epsilon),
    }
    measure = measures[recipe.pixel]
    # FP32 whatever the network computed in: half precision cannot average many small squares.
    return lambda sr, hr: recipe.weight * measure(sr.float(), hr.float())
