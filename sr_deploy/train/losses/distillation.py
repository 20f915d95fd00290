"""Mean absolute distance from what the network gave in FP32 before it was trained for INT8, for the same input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, device
from torch.nn import functional as F

from sr_deploy.train.losses.registry import Criterion, Loss, LossInputs, LossOptions

if TYPE_CHECKING:
    from sr_deploy.train.recipe import Recipe


def _build(_options: LossOptions, _device: device) -> Criterion:
    def measure(inputs: LossInputs) -> Tensor:
        expected = inputs.teacher(inputs.lr_NCHW)
        return F.l1_loss(inputs.sr_NCHW.float(), expected.float())

    return measure


def _read(recipe: Recipe) -> LossOptions | None:
    return None if recipe.quantization is None else LossOptions(weight=recipe.quantization.distillation)


LOSS = Loss(
    title="Distance from the network before training for INT8",
    options=LossOptions,
    build=_build,
    needs=frozenset({"teacher"}),
    read=_read,
)
