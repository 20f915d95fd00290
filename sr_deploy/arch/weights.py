"""Checkpoints on disk: ours (safetensors) and published ones in every known layout. No code of a file is run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError

from sr_deploy.arch.discriminators.layouts import DISCRIMINATOR_ROLE, looks_like_discriminator
from sr_deploy.arch.keys import Shapes, keep_names
from sr_deploy.arch.readings import choose_reading
from sr_deploy.arch.registry import Architecture, Layout, build_network, complete_spec, find_layout, list_layouts
from sr_deploy.arch.spec import NOT_STATED, ArchSpec, Attribution
from sr_deploy.arch.tensors import OUR_FORMAT, check_shapes, list_keys, open_tensors, shapes_of, write_tensors
from sr_deploy.arch.vgg import looks_like_vgg
from sr_deploy.config import first_problem
from sr_deploy.errors import CheckpointError, DiscriminatorFoundError, InputError
from sr_deploy.files import require_file
from sr_deploy.legible import show_value

if TYPE_CHECKING:
    from torch import Tensor

_STEPS_KEY = "input_steps"
_STEPS = TypeAdapter(dict[str, Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]])
_ATTRIBUTION_KEYS = {"license": ("license",), "author": ("author", "authors"), "source": ("source", "url", "homepage")}
"""Under which files state it, each also after `modelspec.`."""


@dataclass(frozen=True)
class Checkpoint:
    """A generator's weights, recognized and checked."""

    spec: ArchSpec
    """What network they are for."""
    layout: str
    """How the file named them, as `sr-deploy info` prints it; `sr-deploy` for files of ours."""
    state: dict[str, Tensor]
    """The tensors under our keys, in fp32 (counters as they are), on the CPU."""
    notes: tuple[str, ...] = ()
    """What was found out beyond what the file says, a line each."""
    attribution: Attribution = NOT_STATED
    """Whose they are, as the file's metadata say."""


def save_generator(
    path: Path, state: Mapping[str, Tensor], spec: ArchSpec, extra: Mapping[str, str] | None = None
) -> None:
    """Write weights as safetensors, atomically, with `spec` in the metadata.

    Args:
        path: the file.
        state: state dict of `build_network(spec)`, on any device.
        spec: the network.
        extra: more metadata, text by name.

    Raises:
        OutputError: it cannot be written.
    """
    write_tensors(path, state, {**(extra or {}), "format": OUR_FORMAT, "arch": spec.model_dump_json()})


def describe_input_steps(input_steps: Mapping[str, float]) -> dict[str, str]:
    """The steps of a network that was trained for INT8, as metadata of its weights; nothing of none."""
    return {_STEPS_KEY: json.dumps(dict(input_steps))} if input_steps else {}


def read_input_steps(path: Path) -> dict[str, float]:
    """The steps that a checkpoint was trained for INT8 with, by name of the convolution's module; empty: it was not.

    Raises:
        InputError: as `read_checkpoint`.
        CheckpointError: as `read_checkpoint`, or the steps are not positive numbers.
    """
    with open_tensors(path, "the generator's weights") as file:
        text = file.metadata.get(_STEPS_KEY) if file.metadata.get("format") == OUR_FORMAT else None
    if text is None:
        return {}
    try:
        return _STEPS.validate_json(text)
    except ValidationError as error:
        raise CheckpointError(
            f"{path}: the steps of INT8 in its metadata are not positive numbers by name: {text[:80]}; it is damaged"
        ) from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the generator in a file of weights.

    Args:
        path: safetensors, or what `torch.save` writes, of ours or in a published layout.

    Raises:
        InputError: the file does not exist, or is a folder.
        CheckpointError: unsafe, damaged, without a generator, of an unknown layout, or contradicting itself.
    """
    require_file(path, "a checkpoint")
    with open_tensors(path, "the generator's weights", _fits) as file:
        shapes = file.shapes
        if file.metadata.get("format") == OUR_FORMAT:
            spec, layout, names = _read_our_spec(file.metadata), OUR_FORMAT, keep_names(shapes)
        else:
            spec, layout, names = _recognize(shapes)
        _check_shapes(spec, {name: shapes[key] for key, name in names.items()})
        state, attribution = file.load(names), _read_attribution(file.metadata)
    if layout == OUR_FORMAT:
        return Checkpoint(spec, layout, state, attribution=attribution)
    spec, note = choose_reading(spec, state)
    notes = tuple(one for one in (file.note, note) if one is not None)
    return Checkpoint(spec, layout, state, notes, attribution)


def _fits(shapes: Shapes, whole: bool) -> bool:
    """Whether a generator has such tensors: by the keys that it is known by, or by each of them."""
    if not whole:
        return find_layout(shapes) is not None
    try:
        spec, _, names = _recognize(shapes)
        _check_shapes(spec, {name: shapes[key] for key, name in names.items()})
    except CheckpointError:
        return False
    return True


def _read_attribution(metadata: Mapping[str, str]) -> Attribution:
    def find(keys: Sequence[str]) -> str | None:
        names = [f"{prefix}{key}" for prefix in ("", "modelspec.") for key in keys]
        return next((metadata[name] for name in names if metadata.get(name)), None)

    return Attribution(**{field: find(keys) for field, keys in _ATTRIBUTION_KEYS.items()})


def _read_our_spec(metadata: Mapping[str, str]) -> ArchSpec:
    """What the metadata of our own file say; that the shapes agree is checked by the caller."""
    if "arch" not in metadata:
        role = metadata.get("role", "something else")
        kind = DiscriminatorFoundError if role == DISCRIMINATOR_ROLE else CheckpointError
        raise kind(f"a file of sr-deploy that holds no generator but {role}; give generator.safetensors")
    try:
        return ArchSpec.model_validate_json(metadata["arch"])
    except ValidationError as error:
        problem = first_problem(error, "the whole")
        raise CheckpointError(f"its metadata describe no network known here ({problem})") from error


def _recognize(shapes: Shapes) -> tuple[ArchSpec, str, dict[str, str]]:
    """Find the layout that the keys are in, what network the shapes make, and our names for its tensors."""
    architecture, layout = _find_layout(shapes)
    try:
        names = layout.rename(shapes)
        inferred = architecture.infer({names.get(key, key): shape for key, shape in shapes.items()})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise CheckpointError(
            f"looks like {layout.signature}, but its shapes make no network: {first['loc'][0]} would be "
            f"{show_value(first.get('input'))} ({first['msg']})"
        ) from error
    except CheckpointError as error:
        raise CheckpointError(f"looks like {layout.signature}, but {error}") from error
    return ArchSpec(**inferred.model_dump()), layout.name, names


def _find_layout(shapes: Shapes) -> tuple[Architecture[Any], Layout]:
    found = find_layout(shapes)
    if found is not None:
        return found
    first = list_keys(shapes)
    if looks_like_vgg(shapes):
        raise CheckpointError(f"looks like VGG's weights (first keys: {first}); give the generator's weights")
    if looks_like_discriminator(shapes):
        raise DiscriminatorFoundError(f"looks like a discriminator (first keys: {first}); give the generator's weights")
    signatures = "; ".join(layout.signature for _, layout in list_layouts())
    raise CheckpointError(f"unknown layout, first keys: {first}; known layouts: {signatures}")


def _check_shapes(spec: ArchSpec, shapes: Shapes) -> None:
    """Compare with the network that `spec` makes.

    Raises:
        CheckpointError: a tensor is missing, superfluous or of another shape; the first of them is named.
    """
    try:
        blocks = getattr(complete_spec(spec), "blocks", 0)
    except InputError as error:
        raise CheckpointError(f"its metadata describe no network known here ({error})") from error
    if blocks > len(shapes):  # a network of that many is not even built
        raise CheckpointError(f"{spec.title()} cannot be made of {len(shapes)} tensors")
    try:
        with torch.device("meta"):
            expected = shapes_of(build_network(spec).state_dict())
    except InputError as error:
        raise CheckpointError(str(error)) from error
    except RuntimeError as error:
        raise CheckpointError(f"{spec.title()} is larger than any network ({error})") from error
    check_shapes(shapes, expected, spec.title())
