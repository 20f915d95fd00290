"""Optimization profiles, checked before a builder sees them."""

from __future__ import annotations

from collections.abc import Sequence

from sr_deploy.arch.registry import input_multiple, list_convolutions
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.bundle import Profile
from sr_deploy.errors import ShapeError

MAX_ACTIVATION_GIB = 128
"""A single tensor beyond this fits no GPU beside the one it is computed from."""


def check_profiles(profiles: Sequence[Profile], arch: ArchSpec) -> None:
    """Refuse profiles that the network cannot run.

    Raises:
        ShapeError: none, two of one name, a side that is no multiple of the network's, or a largest shape whose
            activations no GPU holds.
    """
    check_names(profiles)
    check_sides(profiles, input_multiple(arch), arch.title())
    for profile in profiles:
        _check_memory(profile, arch)


def check_names(profiles: Sequence[Profile]) -> None:
    """Refuse no profiles at all, and two of one name.

    Raises:
        ShapeError: the message says which.
    """
    if not profiles:
        raise ShapeError("an engine needs a profile; give --profile NAME=MIN,OPT,MAX")
    names = [profile.name for profile in profiles]
    for name in names:
        if names.count(name) > 1:
            raise ShapeError(f"two profiles are named {name!r}; give each a name of its own")


def check_sides(profiles: Sequence[Profile], multiple: int, network: str) -> None:
    """Refuse sides that are not multiples of what `network`, named so in the error, takes.

    Raises:
        ShapeError: the message names the profile and the shape.
    """
    for profile in profiles:
        for label, shape in (("min", profile.min), ("opt", profile.opt), ("max", profile.max)):
            if shape.h % multiple or shape.w % multiple:
                raise ShapeError(
                    f"profile {profile.name!r}: {label} is {shape}, but {network} takes heights and "
                    f"widths that are multiples of {multiple}"
                )


def activation_gib(profile: Profile, arch: ArchSpec) -> float:
    """Size of the largest tensor between two layers at the profile's largest shape, in GiB at FP32."""
    per_pixel = max(
        max(convolution.in_channels, convolution.out_channels) * float(convolution.resolution) ** 2
        for convolution in list_convolutions(arch)
    )
    return profile.max.n * profile.max.h * profile.max.w * per_pixel * 4 / 2**30


def _check_memory(profile: Profile, arch: ArchSpec) -> None:
    needed = activation_gib(profile, arch)
    if needed > MAX_ACTIVATION_GIB:
        raise ShapeError(
            f"profile {profile.name!r}: at its max of {profile.max} one tensor of {arch.title()} takes {needed:.0f} "
            f"GiB, more than any GPU holds (limit {MAX_ACTIVATION_GIB}); give a smaller max and upscale in tiles"
        )
