"""The exponential moving average of a network's weights and buffers."""

from __future__ import annotations

import copy

import torch
from torch import nn

from sr_deploy.train.recipe import EmaRecipe


class MovingAverage:
    """A second network whose weights follow those of the trained one.

    Floating-point buffers (the statistics of batch normalization) are averaged like weights; others are copied.
    """

    def __init__(self, network: nn.Module, recipe: EmaRecipe) -> None:
        """Start as a copy of `network`."""
        self._recipe = recipe
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    def decay_at(self, step: int) -> float:
        """Share of the old average kept by the update that follows `step` earlier ones."""
        if not self._recipe.warm_up:
            return self._recipe.decay
        return min(self._recipe.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights of `network` after update number `step` (counted from 0)."""
        weight = 1 - self.decay_at(step)
        averaged = self.network.state_dict()
        current = network.state_dict()
        floating = [key for key, tensor in averaged.items() if tensor.is_floating_point()]
        # One call for all tensors: a launch each would cost more than the arithmetic.
        torch._foreach_lerp_([averaged[key] for key in floating], [current[key] for key in floating], weight)
        for key in averaged.keys() - set(floating):
            averaged[key].copy_(current[key])
