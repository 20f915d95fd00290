"""Discriminators on disk: ours (safetensors) and published ones. No code of a file is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import ValidationError

from sr_deploy.arch.discriminators.build import build_discriminator
from sr_deploy.arch.discriminators.layouts import DISCRIMINATOR_ROLE, infer_discriminator, rename_spectral_keys
from sr_deploy.arch.spec import DiscriminatorSpec
from sr_deploy.arch.tensors import OUR_FORMAT, check_shapes, naming_file, read_tensor_file, to_fp32, write_tensors
from sr_deploy.errors import CheckpointError, InputError
from sr_deploy.files import require_file

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
    require_file(path, "a discriminator's weights")
    with naming_file(path):
        tensors, metadata = read_tensor_file(path, "the discriminator's weights")
        names = rename_spectral_keys({key: tuple(tensor.shape) for key, tensor in tensors.items()})
        state = {names[key]: tensor for key, tensor in tensors.items()}
        spec = _read_our_spec(metadata) if metadata.get("format") == OUR_FORMAT else _infer_spec(state)
        check_shapes(state, _expected_state(spec), spec.title())
        return spec, {key: to_fp32(key, tensor) for key, tensor in state.items()}


def _read_our_spec(metadata: Mapping[str, str]) -> DiscriminatorSpec:
    if "discriminator" not in metadata:
        what = "a generator" if "arch" in metadata else metadata.get("role", "something else")
        raise CheckpointError(
            f"a file of sr-deploy that holds no discriminator but {what}; give discriminator.safetensors"
        )
    try:
        return DiscriminatorSpec.model_validate_json(metadata["discriminator"])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"its metadata describe no discriminator known here ({where}: {first['msg']})") from error


def _infer_spec(state: Mapping[str, Tensor]) -> DiscriminatorSpec:
    try:
        return infer_discriminator({key: tuple(tensor.shape) for key, tensor in state.items()})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise CheckpointError(
            f"its shapes make no discriminator: {first['loc'][0]} would be {first.get('input')!r} ({first['msg']})"
        ) from error


def _expected_state(spec: DiscriminatorSpec) -> dict[str, Tensor]:
    """Names and shapes, where possible without memory for the numbers."""
    # Spectral norm iterates when it is made: on the meta device torch loads its decompositions for that, for seconds.
    device = "cpu" if spec.spectral_norm else "meta"
    try:
        with torch.random.fork_rng(devices=[]), torch.device(device):
            return build_discriminator(spec).state_dict()
    except InputError as error:
        raise CheckpointError(str(error)) from error
