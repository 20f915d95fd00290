"""`state.pt`, read back: it comes from an untrusted folder, so all of it is checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import torch
from pydantic import BaseModel, Field, ValidationError

from sr_deploy.arch.tensors import naming_file
from sr_deploy.arch.torch_files import load_torch_file
from sr_deploy.errors import CheckpointError
from sr_deploy.files import require_file
from sr_deploy.legible import show_value
from sr_deploy.train.run import ValidationResult
from sr_deploy.untrusted import open_regular

STATE_SCHEMA: Literal[2] = 2
"""Raised when the content changes."""
Count = Annotated[int, Field(ge=0, le=2**53)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Model = TypeVar("Model", bound=BaseModel)
_MOMENTS = ("exp_avg", "exp_avg_sq")


class SavedState(BaseModel, strict=True, frozen=True, extra="forbid", arbitrary_types_allowed=True):
    """What `write_checkpoint` writes beside the weights."""

    schema_version: Literal[2]
    step: Count
    """Updates made, those left out among them."""
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Time in the loop, over all resumptions."""
    metrics: dict[str, list[Finite]]
    """Of the healthy steps since the last line of metrics, by name."""
    skipped: Count
    """Steps left out so far because a loss or gradient was NaN or infinite."""
    skipped_lately: Count
    """Those of them since the last line of metrics."""
    bad_in_row: Count
    """Steps left out one after another, up to now."""
    optimizer: dict[str, object]
    """State dict of the generator's."""
    discriminator_optimizer: dict[str, object] | None
    """That of the discriminator's."""
    scaler: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    """State dict of the gradients' scaler; empty where there is none."""
    pools: list[dict[str, torch.Tensor | Count]]
    """Of all processes, by rank."""
    best_validation: ValidationResult | None
    """The best so far, by the recipe's `run.best_by`."""


def read_saved_state(path: Path) -> SavedState:
    """Read `state.pt`.

    Raises:
        InputError: there is none.
        CheckpointError: damaged, or not what `write_checkpoint` writes.
    """
    require_file(path, "the state of a training")
    with naming_file(path), open_regular(path) as stream:
        document = load_torch_file(stream)
        if isinstance(document, dict) and isinstance(best := document.get("best_validation"), dict):
            document["best_validation"] = _validate(ValidationResult, best)
        return _validate(SavedState, document)


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, object] | None) -> None:
    """Put Adam's moments back; its settings stay those of the recipe.

    Raises:
        CheckpointError: moments of another network, or values that are NaN or infinite.
    """
    moments = (saved or {}).get("state")
    if not isinstance(moments, dict):
        raise CheckpointError("the optimizer's moments are missing")
    present = optimizer.state_dict()
    shapes = [tuple(one.shape) for group in optimizer.param_groups for one in group["params"]]
    for number, held in moments.items():
        fits = isinstance(number, int) and 0 <= number < len(shapes) and isinstance(held, dict)
        if not fits or held.keys() != {"step", *_MOMENTS}:
            raise CheckpointError(f"the optimizer's moments {show_value(number)} are none of this network's")
        for name, value in held.items():
            expected = () if name == "step" else shapes[number]
            if not isinstance(value, torch.Tensor) or tuple(value.shape) != expected or not value.is_floating_point():
                raise CheckpointError(f"the optimizer's moment {number} ({name}) is none of this network's")
            if not bool(torch.isfinite(value).all()):
                raise CheckpointError(f"the optimizer's moment {number} ({name}) holds NaN or infinity")
    optimizer.load_state_dict({"state": moments, "param_groups": present["param_groups"]})


def load_scaler(scaler: torch.amp.GradScaler, saved: Mapping[str, float]) -> None:
    """Put the scale of the gradients back.

    Raises:
        CheckpointError: that of another precision.
    """
    present = scaler.state_dict()
    if saved.keys() != present.keys():
        raise CheckpointError("the scale of its gradients is that of another precision")
    scaler.load_state_dict({name: type(present[name])(value) for name, value in saved.items()})


def _validate(model: type[Model], document: object) -> Model:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(show_value(part) for part in first["loc"])
        raise CheckpointError(f"is not a state of a training ({where}: {first['msg'][:200]})") from error
