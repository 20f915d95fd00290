"""Pixel losses, each a mean over all values of a batch, on images in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from sr_deploy.train.losses.registry import Criterion, Loss, LossInputs, LossOptions
from sr_deploy.train.section import Factor, one_of


def charbonnier_loss(sr: Tensor, hr: Tensor, epsilon: float) -> Tensor:
    """Mean of sqrt(d^2 + epsilon^2) (LapSRN, eq. 3); close to L1, smooth at 0."""
    return torch.sqrt((sr - hr).square() + epsilon**2).mean()


_DISTANCES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "l1": lambda sr, hr, _: F.l1_loss(sr, hr),
    "mse": lambda sr, hr, _: F.mse_loss(sr, hr),
    "charbonnier": charbonnier_loss,
}


class PixelOptions(LossOptions):
    """Keys of `[loss]` itself."""

    pixel: Annotated[str, one_of(_DISTANCES)] = Field(default="l1", examples=list(_DISTANCES))
    """Mean absolute error, mean squared error, or the smooth L1 of Charbonnier."""
    weight: Factor = 1.0
    """Factor of the pixel loss; 0 leaves it out."""
    charbonnier_epsilon: float = Field(default=1e-3, gt=0, le=1)
    """Epsilon of sqrt(d^2 + epsilon^2), in image units of [0, 1] (1e-3 in LapSRN)."""


def _build(options: PixelOptions, _device: torch.device) -> Criterion:
    distance = _DISTANCES[options.pixel]

    def measure(inputs: LossInputs) -> Tensor:
        # FP32 whatever the network computed in: half precision cannot average many small squares.
        return distance(inputs.sr_NCHW.float(), inputs.target_NCHW.float(), options.charbonnier_epsilon)

    return measure


LOSS = Loss(title="Distance of pixels", options=PixelOptions, build=_build, flat=True)
