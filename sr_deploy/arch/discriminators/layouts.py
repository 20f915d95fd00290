"""Which discriminator a state dict is of, from its keys and shapes alone."""

from __future__ import annotations

from math import isqrt

from sr_deploy.arch.discriminators.srgan import SRGAN_MULTIPLE
from sr_deploy.arch.discriminators.vgg_style import VGG_STAGES, VGG_WIDEST
from sr_deploy.arch.keys import Shapes, count_numbered, find_shape
from sr_deploy.arch.registry import find_layout
from sr_deploy.arch.spec import DiscriminatorSpec
from sr_deploy.arch.tensors import list_keys
from sr_deploy.errors import CheckpointError

DISCRIMINATOR_ROLE = "a discriminator"
"""What the metadata of our own files say under `role`."""
# torch.nn.utils.spectral_norm, which published files come from, and its successor in `parametrizations`.
_SPECTRAL_NAMES = (
    (".weight_orig", ".parametrizations.weight.original"),
    (".weight_u", ".parametrizations.weight.0._u"),
    (".weight_v", ".parametrizations.weight.0._v"),
)
_KNOWN = (
    "conv0 to conv9 (U-Net of Real-ESRGAN); conv0_0, conv0_1, linear1 (VGG style of BasicSR); conv0 to conv7, bn7, "
    "linear1 (srgan of sr-deploy)"
)


def looks_like_discriminator(shapes: Shapes) -> bool:
    """Whether keys that no generator has are likely those of a discriminator, known here or not."""
    if _is_vgg_style(shapes) or _is_unet(shapes) or _is_srgan(shapes):
        return True
    return any(key.endswith(_SPECTRAL_NAMES[0]) or key.startswith("classifier.") for key in shapes)


def rename_spectral_keys(shapes: Shapes) -> dict[str, str]:
    """Our key for each key: those of torch's older spectral norm become those of the newer one, others stay."""
    return {key: _rename_spectral_key(key) for key in shapes}


def infer_discriminator(shapes: Shapes) -> DiscriminatorSpec:
    """The spec that a state dict with our keys has.

    Raises:
        CheckpointError: a generator, an unknown layout, or shapes that make no discriminator (no file name in it).
    """
    if _is_vgg_style(shapes):
        return _infer_vgg_style(shapes)
    if _is_unet(shapes):
        return _infer_unet(shapes)
    if _is_srgan(shapes):
        return _infer_srgan(shapes)
    first = list_keys(shapes)
    generator = find_layout(shapes)
    if generator is not None:
        raise CheckpointError(f"looks like a generator ({generator[1].signature}); give the discriminator's weights")
    raise CheckpointError(f"unknown layout, first keys: {first}; known discriminators: {_KNOWN}")


def _is_vgg_style(shapes: Shapes) -> bool:
    return {"conv0_0.weight", "linear1.weight"} <= shapes.keys()


def _is_unet(shapes: Shapes) -> bool:
    return {"conv0.weight", "conv9.weight"} <= shapes.keys()


def _is_srgan(shapes: Shapes) -> bool:
    return {"conv0.weight", "bn7.weight", "linear1.weight"} <= shapes.keys()


def _rename_spectral_key(key: str) -> str:
    for old, new in _SPECTRAL_NAMES:
        if key.endswith(old):
            return key.removesuffix(old) + new
    return key


def _infer_vgg_style(shapes: Shapes) -> DiscriminatorSpec:
    features, channels = find_shape(shapes, "conv0_0.weight", 4)[:2]
    inputs = find_shape(shapes, "linear1.weight", 2)[1]
    stages = count_numbered({key.partition("_")[0]: shape for key, shape in shapes.items()}, "conv")
    for architecture, wanted in VGG_STAGES.items():
        if stages == wanted:
            patch_size = _patch_side(inputs, features * VGG_WIDEST) * 2**stages
            return DiscriminatorSpec(
                architecture=architecture, features=features, patch_size=patch_size, channels=channels
            )
    allowed = " or ".join(map(str, VGG_STAGES.values()))
    raise CheckpointError(f"a discriminator in the style of VGG with {stages} stages; it must have {allowed}")


def _infer_unet(shapes: Shapes) -> DiscriminatorSpec:
    features, channels = find_shape(shapes, "conv0.weight", 4)[:2]
    spectral = "conv1.parametrizations.weight.original" in shapes
    return DiscriminatorSpec(architecture="unet", features=features, spectral_norm=spectral, channels=channels)


def _infer_srgan(shapes: Shapes) -> DiscriminatorSpec:
    features, channels = find_shape(shapes, "conv0.weight", 4)[:2]
    last = find_shape(shapes, "conv7.weight", 4)[0]
    inputs = find_shape(shapes, "linear1.weight", 2)[1]
    patch_size = _patch_side(inputs, last) * SRGAN_MULTIPLE
    return DiscriminatorSpec(architecture="srgan", features=features, patch_size=patch_size, channels=channels)


def _patch_side(inputs: int, channels: int) -> int:
    """Side of the feature maps that the first dense layer reads."""
    side = isqrt(inputs // max(channels, 1))
    if side < 1 or side**2 * channels != inputs:
        raise CheckpointError(f"tensor 'linear1.weight' reads {inputs} values, no square map of {channels} channels")
    return side
