"""Distance from a teacher: what a larger network makes of the same input (knowledge distillation).

- Pixels: mean absolute distance between both pictures.
- Features: the spatial affinity of FAKD (He et al. 2020, "FAKD: Feature-Affinity Based Knowledge Distillation for
  Efficient Image Super-Resolution"), for which networks may have different numbers of channels. For features F, of
  length 1 along the channels at each position, A = F^T F says how alike any two positions are; the loss is the mean
  absolute distance between both networks' A. Here F is the last feature map before the upsampling alone.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, device
from torch.nn import functional as F

from sr_deploy.errors import TrainingError
from sr_deploy.train.losses.registry import Criterion, Loss, LossInputs, TeacherOptions
from sr_deploy.train.section import Factor

_MOST_POSITIONS = 32
"""Along a side, for an affinity of 4 MiB for each picture: larger maps are averaged down, which the paper does not."""


class DistillOptions(TeacherOptions):
    """What a small network learns from a large one."""

    features: Factor = Field(default=0.0, examples=[0.0, 1.0])
    """Factor of the distance between affinities of features, beside pixels; 0: pixels alone."""


def _build(options: DistillOptions, _device: device) -> Criterion:
    def measure(inputs: LossInputs) -> Tensor:
        taught = inputs.teacher(inputs.lr_NCHW)
        distance = F.l1_loss(inputs.sr_NCHW.float(), taught.sr_NCHW.float())
        if options.features == 0:
            return distance
        if taught.features is None:
            raise TrainingError(
                f"loss.distill.features = {options.features:g} compares feature maps, and the architecture of the "
                "network or of its teacher does not say which is its last one (`last_features`); set it to 0"
            )
        return distance + options.features * measure_affinity_distance(*taught.features)

    return measure


def measure_affinity_distance(features_NCHW: Tensor, expected_NCHW: Tensor) -> Tensor:
    """Mean absolute distance between the spatial affinities of two feature maps.

    Args:
        features_NCHW: of the network that learns; any number of channels and size.
        expected_NCHW: the teacher's, of the same pictures.

    Returns:
        Scalar in FP32, in [0, 2].
    """
    height, width = (
        min(*sides, _MOST_POSITIONS) for sides in zip(features_NCHW.shape[2:], expected_NCHW.shape[2:], strict=True)
    )
    size = (height, width)
    return F.l1_loss(_find_affinity(features_NCHW, size), _find_affinity(expected_NCHW, size))


def _find_affinity(features_NCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """N x P x P, in [-1, 1], for P positions."""
    directions = F.normalize(F.adaptive_avg_pool2d(features_NCHW.float(), size).flatten(2), dim=1)
    return directions.transpose(1, 2) @ directions


LOSS = Loss(title="Distance from a teacher network", options=DistillOptions, build=_build, needs=frozenset({"teacher"}))
