"""What is minimized, and the network that tells originals from results."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import Field, create_model

from sr_deploy.arch.spec import MAX_DISCRIMINATOR_FEATURES, DiscriminatorName
from sr_deploy.config import OpenSection
from sr_deploy.train.losses.registry import list_losses, loss_names
from sr_deploy.train.section import LearningRate, Section


class LossRecipe(OpenSection, Section):
    """The terms of the generator's loss: each has the options that its module of `sr_deploy.train.losses` defines."""

    @classmethod
    def find_model(cls) -> type[LossRecipe]:
        """The section with the options of every loss that there is now."""
        return _make_section(loss_names())

    def __reduce__(self) -> tuple[Any, ...]:
        # Its class is made when it is asked for: another process has to make it too.
        return LossRecipe.model_validate, (self.model_dump(),)


@cache
def _make_section(_names: tuple[str, ...]) -> type[LossRecipe]:
    flat = tuple(loss.options for _, loss in list_losses() if loss.flat)
    sections: dict[str, Any] = {name: (loss.options | None, None) for name, loss in list_losses() if not loss.flat}
    return create_model("LossRecipe", __base__=(LossRecipe, *flat), **sections)


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
