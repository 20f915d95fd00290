"""What is minimized, and by whom the generator is judged."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from sr_deploy.arch.spec import MAX_DISCRIMINATOR_FEATURES, DiscriminatorName
from sr_deploy.train.recipe.section import Factor, LearningRate, Section

VggLayer = Literal["conv1_2", "conv2_2", "conv3_4", "conv4_4", "conv5_4"]


class PerceptualRecipe(Section):
    """Distance between VGG19's features of two pictures."""

    weight: Factor
    """Factor of the term; 0 trains without it, and then no VGG19 file is needed."""
    layers: dict[VggLayer, Factor]
    """Factor of each layer's distance (Real-ESRGAN: 0.1, 0.1, 1, 1, 1; SRGAN and ESRGAN: conv5_4 alone)."""
    activation: Literal["before", "after"] = "before"
    """Features before the ReLU that follows the layer (ESRGAN, Real-ESRGAN), or after it (SRGAN)."""
    distance: Literal["l1", "mse"] = "l1"
    """Mean absolute error (ESRGAN, Real-ESRGAN) or mean squared error (SRGAN) of features."""
    vgg19: str | None = None
    """torchvision's file vgg19-dcbc9e9d.pth; left out: where torch keeps what it has downloaded."""

    @model_validator(mode="after")
    def _check_layers(self) -> Self:
        if not self.layers or min(self.layers.values()) <= 0:
            raise ValueError("name at least one layer, each with a factor above 0")
        return self


class AdversarialRecipe(Section):
    """What the generator earns by deceiving the discriminator."""

    kind: Literal["vanilla", "least_squares", "hinge", "relativistic_average"]
    """vanilla (SRGAN, Real-ESRGAN), least_squares (LSGAN), hinge, relativistic_average (ESRGAN)."""
    weight: float = Field(gt=0, le=10**6)
    """Factor of the generator's term."""


class LossRecipe(Section):
    """The terms of the generator's loss."""

    pixel: Literal["l1", "mse", "charbonnier"] = "l1"
    """Mean absolute error, mean squared error, or the smooth L1 of Charbonnier."""
    weight: Factor = 1.0
    """Factor of the pixel loss; 0 leaves it out."""
    charbonnier_epsilon: float = Field(default=1e-3, gt=0, le=1)
    """Epsilon of sqrt(d^2 + epsilon^2), in image units of [0, 1] (1e-3 in LapSRN)."""
    perceptual: PerceptualRecipe | None = None
    """The perceptual term; left out: none."""
    adversarial: AdversarialRecipe | None = None
    """The adversarial term, which needs a discriminator; left out: none."""

    @model_validator(mode="after")
    def _check_terms(self) -> Self:
        perceptual = self.perceptual.weight if self.perceptual else 0.0
        if self.weight == 0 and perceptual == 0:
            raise ValueError(
                "neither weight (pixel loss) nor perceptual.weight is above 0: nothing ties the result to the "
                "original; to train without VGG19 also give --set loss.weight=1"
            )
        return self


class DiscriminatorRecipe(Section):
    """The network that tells originals from results."""

    architecture: DiscriminatorName
    """srgan (8 convolutions), vgg128 (ESRGAN's, 10), vgg256 (12), unet (Real-ESRGAN's: a verdict for each pixel)."""
    features: int = Field(default=64, ge=1, le=MAX_DISCRIMINATOR_FEATURES)
    """Channels of its first feature maps."""
    spectral_norm: bool = True
    """unet: divide each weight by its largest singular value (Miyato et al. 2018); the others have none."""
    weights: str | None = None
    """File of a discriminator to start from, ours or a published one."""
    learning_rate: LearningRate | None = None
    """Step size before the schedule, which is the generator's; left out: the generator's rate."""
