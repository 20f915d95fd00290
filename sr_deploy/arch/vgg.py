"""VGG19 (Simonyan and Zisserman 2015), as far as features of pictures are taken from it.

The definition is ours; the weights are the user's file, as torchvision publishes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from sr_deploy.arch.tensors import open_tensors, shapes_of
from sr_deploy.errors import InputError

VGG19_FILE = "vgg19-dcbc9e9d.pth"
VGG19_URL = f"https://download.pytorch.org/models/{VGG19_FILE}"

# Convolutions of each stage and the channels that they give. A ReLU follows each, a 2 x 2 maximum ends each stage.
_STAGES = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))
# Of ImageNet's images in [0, 1]: what the published weights were trained with.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _number_layers() -> dict[str, int]:
    """Index of each convolution in torchvision's `features`, where ReLUs and maxima are counted too."""
    indices, index = {}, 0
    for stage, (convolutions, _) in enumerate(_STAGES, 1):
        for number in range(1, convolutions + 1):
            indices[f"conv{stage}_{number}"] = index
            index += 2
        index += 1
    return indices


LAYER_INDICES = _number_layers()
"""As in conv5_4: 34, by the name of a layer, from the first to the deepest."""


class Vgg19Features(nn.Module):
    """The convolutions of VGG19 up to the deepest layer asked for, in FP32, frozen."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, layers: Sequence[str], activation: Literal["before", "after"] = "before") -> None:
        """Build it with random weights; `load_state_dict(load_vgg19(file, self.deepest))` gives it the published ones.

        Args:
            layers: names such as `conv5_4`: stage, and convolution in the stage.
            activation: features before the ReLU that follows the layer, or after it.

        Raises:
            InputError: no layer, or an unknown one.
        """
        super().__init__()
        unknown = [layer for layer in layers if layer not in LAYER_INDICES]
        if unknown or not layers:
            raise InputError(
                f"{unknown[0] if unknown else 'nothing'!r} is not a layer of VGG19; it has conv1_1, conv1_2, conv2_1 "
                "to conv2_2, conv3_1 to conv3_4, conv4_1 to conv4_4, conv5_1 to conv5_4"
            )
        self.deepest = max(layers, key=LAYER_INDICES.__getitem__)
        after = 1 if activation == "after" else 0
        self._taken = {LAYER_INDICES[layer] + after: layer for layer in layers}
        self.features = nn.Sequential(*_make_modules(max(self._taken)))
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(_DEVIATION).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def forward(self, images_NCHW: Tensor) -> dict[str, Tensor]:
        """Features by layer, FP32: N x channels x H/r x W/r with r = 1, 2, 4, 8, 16 from stage to stage.

        Args:
            images_NCHW: N x 3 x H x W, RGB in [0, 1], of any floating type.
        """
        taken = {}
        # Half precision is not enough: features reach hundreds, and their differences are what counts.
        with torch.autocast(images_NCHW.device.type, enabled=False):
            x_NCHW = (images_NCHW.float() - self.mean) / self.deviation
            for index, module in enumerate(self.features):
                x_NCHW = module(x_NCHW)
                if index in self._taken:
                    taken[self._taken[index]] = x_NCHW
        return taken


def load_vgg19(path: Path, deepest: str = "conv5_4") -> dict[str, Tensor]:
    """State dict for `Vgg19Features` whose deepest layer is `deepest`, from torchvision's file.

    The classifier and deeper layers may be in the file or not; they are left aside.

    Raises:
        InputError: the file does not exist.
        CheckpointError: unsafe, damaged, or not VGG19; the first tensor that does not fit is named.
    """
    with torch.device("meta"):
        expected = shapes_of(Vgg19Features([deepest]).state_dict())
    with open_tensors(path, "VGG19's weights") as file:
        return file.load_published(expected, "VGG19", f"torchvision's {VGG19_FILE}")


def looks_like_vgg(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether keys and shapes are those of a VGG as torchvision names it."""
    return shapes.get("features.0.weight") == (64, 3, 3, 3) and shapes.get("features.2.weight") == (64, 64, 3, 3)


def _make_modules(last: int) -> list[nn.Module]:
    """Torchvision's `features` up to the index `last`: convolution, ReLU, convolution, ReLU, maximum and so on."""
    modules: list[nn.Module] = []
    channels = 3
    for convolutions, features in _STAGES:
        for _ in range(convolutions):
            if len(modules) > last:
                return modules[: last + 1]
            # The ReLU must not work in place: it would overwrite features taken before it.
            modules += [nn.Conv2d(channels, features, 3, padding=1), nn.ReLU()]
            channels = features
        modules.append(nn.MaxPool2d(2))
    return modules[: last + 1]
