"""Adversarial losses on a discriminator's logits: real above 0, generated below.

Every mean is over all logits of the batch: N x 1 (one verdict for each image) and N x 1 x H x W (one for each pixel)
are taken alike. All is computed in FP32, whatever the discriminator computed in: half precision overflows and averages
badly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol

from pydantic import Field
from torch import Tensor, device
from torch.nn import functional as F

from sr_deploy.errors import TrainingError
from sr_deploy.train.losses.registry import AdversarialCriterion, Loss, LossInputs, LossOptions
from sr_deploy.train.section import one_of


class AdversarialLoss(Protocol):
    """What the two networks of a GAN minimize."""

    needs_real: ClassVar[bool]
    """Whether the generator's loss depends on the logits of originals too."""

    def generator_loss(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """What the generator minimizes.

        Args:
            fake: logits of generated images, with their gradient.
            real: logits of originals, if `needs_real`; no gradient flows into them.

        Raises:
            TrainingError: `real` is needed and missing.
        """

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the discriminator minimizes: the term of the originals and that of the generated images, added.

        Args:
            real: logits of originals.
            fake: logits of generated images, which were detached from the generator.
        """


class VanillaLoss:
    """Cross-entropy, the generator's in its non-saturating form (Goodfellow et al. 2014; SRGAN, Real-ESRGAN)."""

    needs_real: ClassVar[bool] = False

    def generator_loss(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """Mean of -log sigmoid(fake)."""
        return _call_real(fake)

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Mean of -log sigmoid(real), plus mean of -log(1 - sigmoid(fake))."""
        return _call_real(real) + _call_fake(fake)


class LeastSquaresLoss:
    """Squares of the distance to 1 and 0 (LSGAN, Mao et al. 2017), without the paper's factor 1/2, as trainers do."""

    needs_real: ClassVar[bool] = False

    def generator_loss(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """Mean of (fake - 1)^2."""
        return (fake.float() - 1).square().mean()

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Mean of (real - 1)^2, plus mean of fake^2."""
        return (real.float() - 1).square().mean() + fake.float().square().mean()


class HingeLoss:
    """A margin of 1 on both sides (Lim and Ye 2017; Miyato et al. 2018)."""

    needs_real: ClassVar[bool] = False

    def generator_loss(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """Minus the mean of fake."""
        return -fake.float().mean()

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Mean of max(0, 1 - real), plus mean of max(0, 1 + fake)."""
        return F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()


class RelativisticAverageLoss:
    """Is an original more real than generated images are on average? (Jolicoeur-Martineau 2018; ESRGAN, section 3.2).

    With C the logits, r originals and f generated images. Both losses are halved, as ESRGAN's code has it. The mean of
    the other side is detached in the discriminator's loss, where originals and generated images pass one after the
    other; in the generator's it is part of what is learned.
    """

    needs_real: ClassVar[bool] = True

    def generator_loss(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """Half of BCE(C(r) - mean C(f), 0) + BCE(C(f) - mean C(r), 1)."""
        if real is None:
            raise TrainingError("the relativistic loss of the generator needs the logits of the originals too")
        fake, real = fake.float(), real.detach().float()
        return (_call_fake(real - fake.mean()) + _call_real(fake - real.mean())) / 2

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Half of BCE(C(r) - mean C(f), 1) + BCE(C(f) - mean C(r), 0), both means detached."""
        real, fake = real.float(), fake.float()
        return (_call_real(real - fake.mean().detach()) + _call_fake(fake - real.mean().detach())) / 2


def _call_real(logits: Tensor) -> Tensor:
    """Mean binary cross-entropy against 1: log(1 + exp(-x)), which neither overflows nor loses small values."""
    return F.softplus(-logits.float()).mean()


def _call_fake(logits: Tensor) -> Tensor:
    """Mean binary cross-entropy against 0: log(1 + exp(x))."""
    return F.softplus(logits.float()).mean()


KINDS: dict[str, AdversarialLoss] = {
    "vanilla": VanillaLoss(),
    "least_squares": LeastSquaresLoss(),
    "hinge": HingeLoss(),
    "relativistic_average": RelativisticAverageLoss(),
}
"""The losses, by the name that a recipe gives them."""


class AdversarialOptions(LossOptions):
    """What the generator earns by deceiving the discriminator."""

    kind: Annotated[str, one_of(KINDS)] = Field(examples=list(KINDS))
    """vanilla (SRGAN, Real-ESRGAN), least_squares (LSGAN), hinge, relativistic_average (ESRGAN)."""
    weight: float = Field(gt=0, le=10**6)
    """Factor of the generator's term."""


@dataclass(frozen=True)
class _Criterion:
    """A loss on logits as a loss on images."""

    loss: AdversarialLoss

    def __call__(self, inputs: LossInputs) -> Tensor:
        real = inputs.discriminator(inputs.hr_NCHW).detach() if self.loss.needs_real else None
        return self.loss.generator_loss(inputs.discriminator(inputs.sr_NCHW), real)

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return self.loss.discriminator_loss(real, fake)


def _build(options: AdversarialOptions, _device: device) -> AdversarialCriterion:
    return _Criterion(KINDS[options.kind])


LOSS = Loss(
    title="What the discriminator says of the output",
    options=AdversarialOptions,
    build=_build,
    needs=frozenset({"discriminator"}),
)
