"""What is minimized: pixel, perceptual and adversarial terms. Each gives a scalar in FP32."""

from __future__ import annotations

from sr_deploy.train.losses.adversarial import AdversarialKind, AdversarialLoss, build_adversarial_loss
from sr_deploy.train.losses.perceptual import PerceptualLoss, build_perceptual_loss, find_vgg19
from sr_deploy.train.losses.pixel import Criterion, build_pixel_loss, charbonnier_loss

__all__ = [
    "AdversarialKind",
    "AdversarialLoss",
    "Criterion",
    "PerceptualLoss",
    "build_adversarial_loss",
    "build_perceptual_loss",
    "build_pixel_loss",
    "charbonnier_loss",
    "find_vgg19",
]
