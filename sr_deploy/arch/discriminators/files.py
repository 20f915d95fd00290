"""Discriminators on disk: ours (safetensors) and published ones. No code of a file is run."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import ValidationError

from sr_deploy.arch.discriminators.factory import build_discriminator, check_discriminator
from sr_deploy.arch.discriminators.layouts import DISCRIMINATOR_ROLE, infer_discriminator, rename_spectral_keys
from sr_deploy.arch.keys import Shapes
from sr_deploy.arch.spec import DiscriminatorSpec
from sr_deploy.arch.tensors import OUR_FORMAT, check_shapes, open_tensors, shapes_of, write_tensors
from sr_deploy.config import first_problem
from sr_deploy.errors import CheckpointError, InputError
from sr_deploy.legible import show_value

if TYPE_CHECKING:
    from torch import Tensor


def save_discriminator(
    path: Path, state: Mapping[str, Tensor], spec: DiscriminatorSpec, extra: Mapping[str, str] | None = None
) -> None:
    """Write weights as safetensors, atomically, with `spec` in the metadata.

    Args:
        path: the file.
        state: state dict of `build_discriminator(spec)`, on any device.
        spec: the network.
        extra: more metadata, text by name.

    Raises:
        OutputError: it cannot be written.
    """
    ours = {"format": OUR_FORMAT, "role": DISCRIMINATOR_ROLE, "discriminator": spec.model_dump_json()}
    write_tensors(path, state, {**(extra or {}), **ours})


def read_discriminator(path: Path) -> tuple[DiscriminatorSpec, dict[str, Tensor]]:
    """Read the discriminator in a file of weights: ours, or a published one with spectral norm of either kind.

    Returns:
        What network they are for, and the state dict of `build_discriminator` for it: fp32, on the CPU.

    Raises:
        InputError: the file does not exist, or is a folder.
        CheckpointError: unsafe, damaged, a generator, of an unknown layout, or contradicting itself.
    """
    with open_tensors(path, "the discriminator's weights") as file:
        names = rename_spectral_keys(file.shapes)
        shapes = {names[key]: shape for key, shape in file.shapes.items()}
        spec = _read_our_spec(file.metadata) if file.metadata.get("format") == OUR_FORMAT else _infer_spec(shapes)
        check_shapes(shapes, _list_shapes(spec), spec.title())
        return spec, file.load(names)


def _read_our_spec(metadata: Mapping[str, str]) -> DiscriminatorSpec:
    if "discriminator" not in metadata:
        what = "a generator" if "arch" in metadata else metadata.get("role", "something else")
        raise CheckpointError(
            f"a file of sr-deploy that holds no discriminator but {what}; give discriminator.safetensors"
        )
    try:
        return DiscriminatorSpec.model_validate_json(metadata["discriminator"])
    except ValidationError as error:
        problem = first_problem(error, "the whole")
        raise CheckpointError(f"its metadata describe no discriminator known here ({problem})") from error


def _infer_spec(shapes: Shapes) -> DiscriminatorSpec:
    try:
        return infer_discriminator(shapes)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise CheckpointError(
            f"its shapes make no discriminator: {first['loc'][0]} would be {show_value(first.get('input'))} "
            f"({first['msg']})"
        ) from error


def _list_shapes(spec: DiscriminatorSpec) -> Shapes:
    """Names and shapes of its tensors, without memory for the numbers."""
    try:
        check_discriminator(spec)
        with torch.device("meta"):
            plain = shapes_of(build_discriminator(spec.model_copy(update={"spectral_norm": False})).state_dict())
    except InputError as error:
        raise CheckpointError(str(error)) from error
    except RuntimeError as error:
        raise CheckpointError(f"{spec.title()} is larger than any network ({error})") from error
    if not spec.spectral_norm:
        return plain
    # Spectral norm iterates when it is made, which takes numbers: what it adds to a convolution is told here instead.
    shapes: dict[str, tuple[int, ...]] = {}
    for key, shape in plain.items():
        if key.endswith(".bias") or f"{key.removesuffix('weight')}bias" in plain:
            shapes[key] = shape
            continue
        normed = f"{key.removesuffix('weight')}parametrizations.weight"
        shapes |= {f"{normed}.original": shape, f"{normed}.0._u": shape[:1], f"{normed}.0._v": (prod(shape[1:]),)}
    return shapes
