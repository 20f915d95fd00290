"""Channel dropout before the generator's last convolution, as a training with several degradations may have it.

Kong et al., "Reflash Dropout in Image Super-Resolution", CVPR 2022.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from sr_deploy.errors import RecipeError
from sr_deploy.train.sampling import random_for

_STREAM = 16


class LastDropout:
    """Sets channels of each sample to 0, and makes up for it in the others, as seed and step decide."""

    def __init__(self, network: nn.Module, probability: float, seed: int) -> None:
        """Hook into the network, of which copies made before have no dropout.

        Args:
            network: the generator.
            probability: of a channel to be dropped, above 0, below 1.
            seed: of the recipe.

        Raises:
            RecipeError: the network has no such place.
        """
        last = find_last_convolution(network)
        self._channels = last.in_channels
        self._probability = probability
        self._seed = seed
        self._factors_NC11: Tensor | None = None
        last.register_forward_pre_hook(self._drop)

    def draw(self, step: int, first_sample: int, count: int, device: torch.device) -> None:
        """Decide what the next pass drops: by (seed, step, sample) alone.

        Args:
            step: of the training, from 0.
            first_sample: number of the first sample of the pass within the step, over all processes.
            count: samples of the pass.
            device: of the network.
        """
        numbers = np.stack(
            [random_for(self._seed, _STREAM, step, first_sample + i).random(self._channels) for i in range(count)]
        )
        factors = (numbers >= self._probability) / (1 - self._probability)
        self._factors_NC11 = torch.from_numpy(factors).float().to(device)[..., None, None]

    def _drop(self, _: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (features_NCHW,) = inputs
        if self._factors_NC11 is None:
            return inputs
        return (features_NCHW * self._factors_NC11.to(features_NCHW.dtype),)


def find_last_convolution(network: nn.Module) -> nn.Conv2d:
    """The convolution that gives the picture, of networks that have one after their upsampling.

    Raises:
        RecipeError: this one has none.
    """
    last = getattr(network, "conv_last", None)
    if not isinstance(last, nn.Conv2d):
        raise RecipeError(
            "optimizer.dropout is for networks whose last convolution is named conv_last, and "
            f"{type(network).__name__} has none; leave it at 0, or take msrresnet, srresnet or rrdbnet"
        )
    return last
