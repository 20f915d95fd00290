"""The perceptual loss: distance between VGG19's features of two pictures.

The published forms, all of them on images in [0, 1]:

- SRGAN (Ledig et al. 2017, eq. 5): conv5_4 after the ReLU, mean squared error, weight 0.006.
- ESRGAN (Wang et al. 2018, section 3.3): conv5_4 before the ReLU, mean absolute error, weight 1.
- Real-ESRGAN (Wang et al. 2021, section 4.1): conv1_2 to conv5_4 before the ReLU, factors 0.1, 0.1, 1, 1, 1, mean
  absolute error, weight 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from sr_deploy.arch.vgg import VGG19_FILE, VGG19_URL, Vgg19Features, load_vgg19
from sr_deploy.errors import InputError
from sr_deploy.train.losses.registry import Criterion, Loss, LossInputs, LossOptions
from sr_deploy.train.section import Factor, one_of

VggLayer = Literal["conv1_2", "conv2_2", "conv3_4", "conv4_4", "conv5_4"]
_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": F.l1_loss, "mse": F.mse_loss}


class PerceptualOptions(LossOptions):
    """Distance between VGG19's features of two images."""

    layers: dict[VggLayer, Factor] = Field(examples=[{"conv3_4": 1.0}, {"conv1_2": 0.1, "conv3_4": 1.0}])
    """Factor of each layer's distance (Real-ESRGAN: 0.1, 0.1, 1, 1, 1; SRGAN and ESRGAN: conv5_4 alone)."""
    activation: Literal["before", "after"] = Field(default="before", examples=["before", "after"])
    """Features before the ReLU that follows the layer (ESRGAN, Real-ESRGAN), or after it (SRGAN)."""
    distance: Annotated[str, one_of(_DISTANCES)] = Field(default="l1", examples=list(_DISTANCES))
    """Mean absolute error (ESRGAN, Real-ESRGAN) or mean squared error (SRGAN) of features."""
    vgg19: str | None = None
    """torchvision's file vgg19-dcbc9e9d.pth; left out: where torch keeps what it has downloaded."""

    @model_validator(mode="after")
    def _check_layers(self) -> Self:
        if not self.layers or min(self.layers.values()) <= 0:
            raise ValueError("name at least one layer, each with a factor above 0")
        return self


class PerceptualLoss(nn.Module):
    """Weighted sum, over layers of VGG19, of the mean distance between features. Its weights are not trained."""

    def __init__(self, features: Vgg19Features, factors: Mapping[str, float], distance: str) -> None:
        """Take a network and what to do with its features.

        Args:
            features: the network, with its weights.
            factors: factor of each layer's distance.
            distance: mean absolute (l1) or mean squared error (mse).
        """
        super().__init__()
        self.features = features
        self.factors = dict(factors)
        self._measure = _DISTANCES[distance]

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Compare N x 3 x H x W in [0, 1], of any floating type; the gradient flows into `sr` alone. FP32 scalar."""
        with torch.no_grad():
            wanted = self.features(hr)
        seen = self.features(sr)
        # A sum of tensors: a new tensor made of the single values would cut the gradient.
        terms = [factor * self._measure(seen[layer], wanted[layer]) for layer, factor in self.factors.items()]
        return torch.stack(terms).sum()


def build_perceptual_loss(options: PerceptualOptions, device: torch.device) -> PerceptualLoss:
    """The loss that a recipe describes, without its weight, on `device`.

    Raises:
        InputError: the file of VGG19's weights does not exist.
        CheckpointError: it is damaged, or holds something else.
    """
    features = Vgg19Features(tuple(options.layers), options.activation)
    features.load_state_dict(load_vgg19(find_vgg19(options), features.deepest))
    factors: dict[str, float] = {layer: factor for layer, factor in options.layers.items()}
    return PerceptualLoss(features.to(device), factors, options.distance)


def find_vgg19(options: PerceptualOptions) -> Path:
    """The file that the recipe names, or the one that torchvision would have downloaded.

    Raises:
        InputError: it does not exist.
    """
    path = Path(options.vgg19).expanduser() if options.vgg19 else Path(torch.hub.get_dir()) / "checkpoints" / VGG19_FILE
    if not path.is_file():
        raise InputError(
            f"the perceptual loss needs VGG19's weights, and {path} is not a file; download {VGG19_URL} and give it "
            "with --set loss.perceptual.vgg19=FILE, or train without this term: --set loss.perceptual.weight=0 (with "
            "--set loss.weight=1 where the pixel loss counts for nothing or little)"
        )
    return path


def _build(options: PerceptualOptions, device: torch.device) -> Criterion:
    loss = build_perceptual_loss(options, device)

    def measure(inputs: LossInputs) -> Tensor:
        distance: Tensor = loss(inputs.sr_NCHW, inputs.target_NCHW)
        return distance

    return measure


LOSS = Loss(title="Distance of VGG19's features", options=PerceptualOptions, build=_build, check_files=find_vgg19)
