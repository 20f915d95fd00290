"""From the description of a discriminator to the network."""

from __future__ import annotations

from torch import nn

from sr_deploy.arch.discriminators.srgan import SRGAN_MULTIPLE, SrganDiscriminator
from sr_deploy.arch.discriminators.unet import UNET_MULTIPLE, UNetDiscriminator
from sr_deploy.arch.discriminators.vgg_style import VGG_STAGES, VggStyleDiscriminator
from sr_deploy.arch.spec import DiscriminatorSpec
from sr_deploy.errors import InputError


def build_discriminator(spec: DiscriminatorSpec) -> nn.Module:
    """The network that `spec` describes, initialized for training, on the CPU, in fp32.

    Its forward takes N x C x H x W in [0, 1] and gives logits, above 0 for originals: N x 1 x H x W (unet) or N x 1.

    Raises:
        InputError: the patches do not fit, or a value that this discriminator does not take.
    """
    check_discriminator(spec)
    if spec.architecture == "unet":
        return UNetDiscriminator(spec.channels, spec.features, spectral=spec.spectral_norm)
    assert spec.patch_size is not None
    if spec.architecture == "srgan":
        return SrganDiscriminator(spec.channels, spec.features, spec.patch_size)
    return VggStyleDiscriminator(spec.channels, spec.features, spec.patch_size, VGG_STAGES[spec.architecture])


def check_discriminator(spec: DiscriminatorSpec) -> None:
    """Check that `build_discriminator` can build it, without building.

    Raises:
        InputError: the patches do not fit, or a value that this discriminator does not take.
    """
    if spec.spectral_norm and spec.architecture != "unet":
        raise InputError(f"{spec.architecture} has no spectral normalization; only unet does")
    if spec.patch_size is None:
        if spec.architecture == "unet":
            return
        raise InputError(f"the discriminator {spec.architecture} needs patch_size: its dense layers depend on it")
    multiples = {"unet": UNET_MULTIPLE, "srgan": SRGAN_MULTIPLE}
    multiple = multiples.get(spec.architecture) or 2 ** VGG_STAGES[spec.architecture]
    if spec.patch_size % multiple:
        raise InputError(
            f"the discriminator {spec.architecture} takes patches whose side is a multiple of {multiple}, not "
            f"{spec.patch_size}; change data.patch_size or discriminator.architecture"
        )
