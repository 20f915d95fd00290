"""Checkpoints: everything that the next step depends on, in a folder that is seen whole or not at all."""

from __future__ import annotations

import io
import pickle
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.weights import save_generator
from sr_deploy.errors import CheckpointError
from sr_deploy.files import output_error, replacing_folder
from sr_deploy.train.ema import MovingAverage
from sr_deploy.train.run import ValidationResult, checkpoint_folder, list_checkpoints

GENERATOR_NAME = "generator.safetensors"
AVERAGE_NAME = "generator_ema.safetensors"
STATE_NAME = "state.pt"


@dataclass
class TrainingState:
    """What changes while training. The loop owns it."""

    network: nn.Module
    """The generator, FP32."""
    average: MovingAverage
    """Its moving average."""
    optimiser: torch.optim.Optimizer
    """Adam, with its moments."""
    scaler: torch.amp.GradScaler
    """Keeps FP16 gradients from vanishing; passes everything through for other formats."""
    step: int = 0
    """Updates made."""
    seconds: float = 0.0
    """Time in the loop, over all resumptions."""
    losses: list[float] = field(default_factory=list)
    """Of the steps since the last line of metrics."""
    best_validation: ValidationResult | None = None
    """Highest mean luma PSNR so far."""


def write_checkpoint(run: Path, state: TrainingState, spec: ArchSpec, keep: int) -> Path:
    """Write the checkpoint of the present step and delete all but the newest `keep`.

    Raises:
        OutputError: it cannot be written; nothing half-written is left, older checkpoints stay.
    """
    folder = checkpoint_folder(run, state.step)
    extra = {"step": str(state.step)}
    with replacing_folder(folder) as temporary:
        save_generator(temporary / GENERATOR_NAME, state.network.state_dict(), spec, {**extra, "weights": "trained"})
        save_generator(temporary / AVERAGE_NAME, state.average.network.state_dict(), spec, {**extra, "weights": "ema"})
        (temporary / STATE_NAME).write_bytes(_pack(state))
    for _, old in list_checkpoints(run)[:-keep]:
        _delete_folder(old)
    return folder


def read_checkpoint_into(folder: Path, state: TrainingState) -> None:
    """Put a checkpoint's content into `state`, whose networks and optimiser are built already.

    Raises:
        CheckpointError: a file is missing, damaged, or of another network.
    """
    try:
        state.network.load_state_dict(load_file(folder / GENERATOR_NAME))
        state.average.network.load_state_dict(load_file(folder / AVERAGE_NAME))
        packed = torch.load(folder / STATE_NAME, map_location="cpu", weights_only=True)
        state.optimiser.load_state_dict(packed["optimiser"])
        state.scaler.load_state_dict(packed["scaler"])
        state.step, state.seconds, state.losses = packed["step"], packed["seconds"], packed["losses"]
        best = packed["best_validation"]
    except (OSError, SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(
            f"{folder} cannot be resumed from ({reason}); delete this folder to go on from the checkpoint before"
        ) from error
    state.best_validation = ValidationResult.model_validate(best) if best else None


def delete_leftovers(run: Path) -> None:
    """Remove what a killed run was writing, files and folders under temporary names."""
    for parent in (run, run / "checkpoints", run / "previews"):
        for leftover in parent.glob(".partial-*"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def _pack(state: TrainingState) -> bytes:
    """Tensors and plain containers only: `torch.load(weights_only=True)` reads it."""
    best = state.best_validation
    packed = {
        "schema_version": 1,
        "step": state.step,
        "seconds": state.seconds,
        "losses": list(state.losses),
        "optimiser": state.optimiser.state_dict(),
        "scaler": state.scaler.state_dict(),
        "best_validation": best.model_dump(mode="json") if best else None,
    }
    # By way of memory: torch.save reports a full disk as an internal error of its writer.
    stream = io.BytesIO()
    torch.save(packed, stream)
    return stream.getvalue()


def _delete_folder(folder: Path) -> None:
    """Take a folder out of sight first: a half-deleted checkpoint must not look like one."""
    hidden = folder.with_name(f".partial-{folder.name}")
    try:
        folder.rename(hidden)
        shutil.rmtree(hidden)
    except OSError as error:
        raise output_error(folder, error) from error
