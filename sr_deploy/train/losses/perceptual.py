"""The perceptual loss: distance between VGG19's features of two pictures.

The published forms, all of them on images in [0, 1]:

- SRGAN (Ledig et al. 2017, eq. 5): conv5_4 after the ReLU, mean squared error, weight 0.006.
- ESRGAN (Wang et al. 2018, section 3.3): conv5_4 before the ReLU, mean absolute error, weight 1.
- Real-ESRGAN (Wang et al. 2021, section 4.1): conv1_2 to conv5_4 before the ReLU, factors 0.1, 0.1, 1, 1, 1, mean
  absolute error, weight 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_deploy.arch.vgg import VGG19_FILE, VGG19_URL, Vgg19Features, load_vgg19
from sr_deploy.errors import InputError
from sr_deploy.train.losses.pixel import Criterion
from sr_deploy.train.recipe import PerceptualRecipe


class PerceptualLoss(nn.Module):
    """Weighted sum, over layers of VGG19, of the mean distance between features. Its weights are not trained."""

    def __init__(
        self, features: Vgg19Features, factors: Mapping[str, float], distance: Literal["l1", "mse"], weight: float
    ) -> None:
        """Take a network and what to do with its features.

        Args:
            features: the network, with its weights.
            factors: factor of each layer's distance.
            distance: mean absolute or mean squared error.
            weight: factor of the sum.
        """
        super().__init__()
        measures: dict[str, Criterion] = {"l1": F.l1_loss, "mse": F.mse_loss}
        self.features = features
        self.factors = dict(factors)
        self.weight = weight
        self._measure = measures[distance]

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Compare N x 3 x H x W in [0, 1], of any floating type; the gradient flows into `sr` alone. FP32 scalar."""
        with torch.no_grad():
            wanted = self.features(hr)
        seen = self.features(sr)
        # A sum of tensors: a new tensor made of the single values would cut the gradient.
        terms = [factor * self._measure(seen[layer], wanted[layer]) for layer, factor in self.factors.items()]
        return self.weight * torch.stack(terms).sum()


def build_perceptual_loss(recipe: PerceptualRecipe, device: torch.device) -> PerceptualLoss | None:
    """The recipe's perceptual loss, times its weight, on `device`; None if its weight is 0.

    Raises:
        InputError: the file of VGG19's weights does not exist.
        CheckpointError: it is damaged, or holds something else.
    """
    if recipe.weight == 0:
        return None
    features = Vgg19Features(tuple(recipe.layers), recipe.activation)
    features.load_state_dict(load_vgg19(find_vgg19(recipe), features.deepest))
    factors: dict[str, float] = {layer: factor for layer, factor in recipe.layers.items()}
    return PerceptualLoss(features.to(device), factors, recipe.distance, recipe.weight)


def find_vgg19(recipe: PerceptualRecipe) -> Path:
    """The file that the recipe names, or the one that torchvision would have downloaded.

    Raises:
        InputError: it does not exist.
    """
    path = Path(recipe.vgg19).expanduser() if recipe.vgg19 else Path(torch.hub.get_dir()) / "checkpoints" / VGG19_FILE
    if not path.is_file():
        raise InputError(
            f"the perceptual loss needs VGG19's weights, and {path} is no file; download {VGG19_URL} and give it with "
            "--set loss.perceptual.vgg19=FILE, or train without this term: --set loss.perceptual.weight=0 (with --set "
            "loss.weight=1 where the pixel loss counts for nothing or little)"
        )
    return path
