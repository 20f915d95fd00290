"""LPIPS v0.1: how different two pictures look, by the features of a classification network.

Zhang et al.: The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 2018. The definition is ours, the
weights are the user's files as published: torchvision's AlexNet or VGG16, and the linear layers of LPIPS for it.
NOT VALIDATED: no published weights could be had while this was written. The arithmetic is tested with random weights;
no figure of the paper was reproduced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from sr_deploy.arch.tensors import list_keys, open_tensors
from sr_deploy.errors import CheckpointError, ShapeError

if TYPE_CHECKING:
    from torch import Tensor

LEAST_SIDE = 32
"""Pixels along each side that it needs."""
_EPSILON = 1e-10
# What LPIPS takes from pictures in [-1, 1], and divides by: ImageNet's mean and deviation, moved to that range.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


@dataclass(frozen=True)
class _Convolution:
    """One convolution of a backbone, each followed by a ReLU."""

    key: str
    """Name of its tensors in torchvision's files, as in `features.0`."""
    shape: tuple[int, int, int, int]
    """Output channels, input channels, kernel height, kernel width."""
    stride: int = 1
    padding: int = 1
    """Zeros on each side."""
    pool: int = 0
    """Kernel of the max pooling with stride 2 before it; 0: none."""
    compared: bool = False
    """Whether LPIPS looks at what comes after the ReLU."""


def _alexnet() -> tuple[_Convolution, ...]:
    return (
        _Convolution("features.0", (64, 3, 11, 11), stride=4, padding=2, compared=True),
        _Convolution("features.3", (192, 64, 5, 5), padding=2, pool=3, compared=True),
        _Convolution("features.6", (384, 192, 3, 3), pool=3, compared=True),
        _Convolution("features.8", (256, 384, 3, 3), compared=True),
        _Convolution("features.10", (256, 256, 3, 3), compared=True),
    )


def _vgg16() -> tuple[_Convolution, ...]:
    convolutions = []
    index, channels = 0, 3
    for stage, (features, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        for number in range(count):
            pool = 2 if stage and not number else 0
            shape = (features, channels, 3, 3)
            convolutions.append(_Convolution(f"features.{index}", shape, pool=pool, compared=number == count - 1))
            index, channels = index + 2, features
        index += 1
    return tuple(convolutions)


_BACKBONES = {"AlexNet": _alexnet(), "VGG16": _vgg16()}
_PUBLISHED = (
    "torchvision's alexnet-owt-7be5be79.pth with LPIPS v0.1's alex.pth, or vgg16-397923af.pth with LPIPS v0.1's vgg.pth"
)


class Lpips:
    """A distance between pictures; 0 for equal ones.

    Example::

        lpips = Lpips.read(Path("alexnet-owt-7be5be79.pth"), Path("alex.pth"))
        distance = lpips(sr, hr)  # H x W x 3 uint8 each
    """

    def __init__(self, name: str, backbone: Mapping[str, Tensor], linear: Mapping[str, Tensor]) -> None:
        """Take weights.

        Args:
            name: `AlexNet` or `VGG16`.
            backbone: torchvision's state dict; what is not needed (the classifier) is left aside.
            linear: `lin0.model.1.weight` to `lin4.model.1.weight`, each 1 x C x 1 x 1.
        """
        self.name = name
        self._convolutions = _BACKBONES[name]
        self._weights = [(backbone[f"{one.key}.weight"], backbone[f"{one.key}.bias"]) for one in self._convolutions]
        self._linear = [linear[key] for key in _list_linear_shapes(name)]

    @classmethod
    def read(cls, backbone: Path, linear: Path) -> Lpips:
        """Read published weights; which backbone it is, the shapes say.

        Raises:
            InputError: a file does not exist.
            CheckpointError: unsafe, damaged, or other weights than these; the message says what is expected.
        """
        with open_tensors(backbone, "the weights of LPIPS's backbone") as file:
            first = file.shapes.get("features.0.weight")
            name = next((name for name, convolutions in _BACKBONES.items() if convolutions[0].shape == first), None)
            if name is None:
                seen = f"'features.0.weight' of shape {first}" if first else f"first keys: {list_keys(file.shapes, 3)}"
                raise CheckpointError(f"no AlexNet or VGG16 of torchvision ({seen}); give {_PUBLISHED}")
            backbone_tensors = file.load_published(_list_shapes(name), name, _PUBLISHED)
        with open_tensors(linear, "the linear layers of LPIPS") as file:
            layers = file.load_published(_list_linear_shapes(name), f"LPIPS's layers for {name}", _PUBLISHED)
            return cls(name, backbone_tensors, layers)

    @torch.no_grad()
    def __call__(self, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
        """Compare two pictures.

        Args:
            a: H x W x 3 (RGB) or 1 (gray, repeated), 8 bit; taken from 0..255 to [-1, 1].
            b: the same shape.

        Raises:
            ShapeError: the shapes differ, or are too small for the network.
        """
        if a.shape != b.shape or a.ndim != 3 or a.shape[2] not in (1, 3):
            raise ShapeError(f"LPIPS compares two pictures H x W x 3 or 1 of one shape, not {a.shape} with {b.shape}")
        if min(a.shape[:2]) < LEAST_SIDE:
            raise ShapeError(f"LPIPS needs sides of at least {LEAST_SIDE} pixels, not {a.shape[0]}x{a.shape[1]} (HxW)")
        return sum(
            float((weight * (left - right).square()).sum(dim=1).mean())
            for weight, left, right in zip(self._linear, self._features(a), self._features(b), strict=True)
        )

    def _features(self, image: NDArray[np.uint8]) -> list[Tensor]:
        """What each compared layer gives, scaled to length 1 at each pixel: 1 x C x H x W."""
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)[None], dtype=np.float32))
        x_NCHW = pixels.expand(-1, 3, -1, -1) / 127.5 - 1
        x_NCHW = (x_NCHW - torch.tensor(_SHIFT).view(1, 3, 1, 1)) / torch.tensor(_SCALE).view(1, 3, 1, 1)
        features = []
        for one, (weight, bias) in zip(self._convolutions, self._weights, strict=True):
            if one.pool:
                x_NCHW = functional.max_pool2d(x_NCHW, one.pool, 2)
            x_NCHW = functional.relu(functional.conv2d(x_NCHW, weight, bias, one.stride, one.padding))
            if one.compared:
                features.append(x_NCHW / (x_NCHW.square().sum(dim=1, keepdim=True).sqrt() + _EPSILON))
        return features


def _list_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Shapes of a backbone's tensors, by key."""
    shapes: dict[str, tuple[int, ...]] = {}
    for one in _BACKBONES[name]:
        shapes |= {f"{one.key}.weight": one.shape, f"{one.key}.bias": one.shape[:1]}
    return shapes


def _list_linear_shapes(name: str) -> dict[str, tuple[int, ...]]:
    compared = [one.shape[0] for one in _BACKBONES[name] if one.compared]
    return {f"lin{number}.model.1.weight": (1, channels, 1, 1) for number, channels in enumerate(compared)}
