"""Checkpoints: everything that the next step depends on, in a folder that is seen whole or not at all."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn

from sr_deploy.arch.discriminators import save_discriminator
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.tensors import check_shapes, open_tensors, shapes_of
from sr_deploy.arch.weights import describe_input_steps, save_generator
from sr_deploy.errors import CheckpointError, InputError, TrainingError
from sr_deploy.files import output_error, replacing_folder
from sr_deploy.run_folder import (
    AVERAGE_NAME,
    CHECKPOINTS_NAME,
    DISCRIMINATOR_NAME,
    GENERATOR_NAME,
    PREVIEWS_NAME,
    STATE_NAME,
    checkpoint_folder,
    list_checkpoints,
    list_kept,
)
from sr_deploy.train.saved_state import STATE_SCHEMA, load_optimizer, load_scaler, read_saved_state
from sr_deploy.train.state import DiscriminatorState, TrainingState

_COUNTERS = ("step", "seconds", "metrics", "skipped", "skipped_lately", "bad_in_row")

PoolState = Mapping[str, object]
"""Content of one process's pool."""


def write_checkpoint(
    run: Path,
    state: TrainingState,
    spec: ArchSpec,
    pools: Sequence[PoolState] | None = None,
    *,
    input_steps: Mapping[str, float] = MappingProxyType({}),
) -> Path:
    """Write the checkpoint of the present step; older ones stay.

    Args:
        run: the run's folder.
        state: what to write.
        spec: of the generator.
        pools: of all processes, by rank; None: that of `state`, if it has one.
        input_steps: that the generator is trained for INT8 with.

    Raises:
        OutputError: it cannot be written; nothing half-written is left.
        TrainingError: a weight is NaN or infinite; nothing is written.
    """
    if pools is None:
        pools = [state.pool.state_dict()] if state.pool is not None else []
    _check_weights(state)
    folder = checkpoint_folder(run, state.step)
    extra = {"step": str(state.step)}
    own = {**extra, **describe_input_steps(input_steps)}
    with replacing_folder(folder) as temporary:
        save_generator(temporary / GENERATOR_NAME, state.network.state_dict(), spec, {**own, "weights": "trained"})
        save_generator(temporary / AVERAGE_NAME, state.average.network.state_dict(), spec, {**own, "weights": "ema"})
        if (discriminator := state.discriminator) is not None:
            save_discriminator(
                temporary / DISCRIMINATOR_NAME, discriminator.network.state_dict(), discriminator.spec, extra
            )
        (temporary / STATE_NAME).write_bytes(_pack(state, pools))
    return folder


def delete_old_checkpoints(run: Path, newest: int, best: str | None) -> None:
    """Delete all checkpoints but the `newest` ones and the best. The manifest must not name the others any more.

    Args:
        run: the run's folder.
        newest: how many to keep.
        best: folder below the run's of one more to keep.

    Raises:
        OutputError: one cannot be deleted.
    """
    kept = list_kept(run, newest, run / best if best is not None else None)
    for _, folder in list_checkpoints(run):
        if folder not in kept:
            _delete_folder(folder)


def read_checkpoint_into(folder: Path, state: TrainingState, *, rank: int = 0, processes: int = 1) -> bool:
    """Put a checkpoint's content into `state`, whose networks and optimizers are built already.

    Returns:
        Whether the pool came back too; it does not where another number of processes goes on.

    Raises:
        CheckpointError: a file is missing, damaged, or of another network.
    """
    try:
        _load_weights(folder / GENERATOR_NAME, state.network)
        _load_weights(folder / AVERAGE_NAME, state.average.network)
        if state.discriminator is not None:
            _load_weights(folder / DISCRIMINATOR_NAME, state.discriminator.network)
        saved = read_saved_state(folder / STATE_NAME)
        load_optimizer(state.optimizer, saved.optimizer)
        if state.discriminator is not None:
            load_optimizer(state.discriminator.optimizer, saved.discriminator_optimizer)
        load_scaler(state.scaler, saved.scaler)
        pool_fits = state.pool is None or len(saved.pools) == processes
        if state.pool is not None and pool_fits:
            state.pool.load_state_dict(saved.pools[rank])
    except InputError as error:
        raise CheckpointError(
            f"{folder} cannot be resumed from ({error}); delete this folder to go on from the checkpoint before"
        ) from error
    for name in _COUNTERS:
        setattr(state, name, getattr(saved, name))
    state.best_validation = saved.best_validation
    return pool_fits


def _load_weights(path: Path, network: nn.Module) -> None:
    expected = shapes_of(network.state_dict())
    with open_tensors(path, "weights") as file:
        check_shapes(file.shapes, expected, "the network of this run")
        network.load_state_dict(file.load({key: key for key in expected}))


def delete_leftovers(run: Path) -> None:
    """Remove what a killed run was writing, files and folders under temporary names."""
    for parent in (run, run / CHECKPOINTS_NAME, run / PREVIEWS_NAME):
        for leftover in parent.glob(".partial-*"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def _pack(state: TrainingState, pools: Sequence[PoolState]) -> bytes:
    """Tensors and plain containers only: `torch.load(weights_only=True)` reads it."""
    best, discriminator = state.best_validation, state.discriminator
    packed = {
        "schema_version": STATE_SCHEMA,
        **{name: getattr(state, name) for name in _COUNTERS},
        "optimizer": state.optimizer.state_dict(),
        "discriminator_optimizer": discriminator.optimizer.state_dict() if discriminator is not None else None,
        "scaler": state.scaler.state_dict(),
        "pools": list(pools),
        "best_validation": best.model_dump(mode="json") if best else None,
    }
    # By way of memory: torch.save reports a full disk as an internal error of its writer.
    stream = io.BytesIO()
    torch.save(packed, stream)
    return stream.getvalue()


def _check_weights(state: TrainingState) -> None:
    discriminator: DiscriminatorState | None = state.discriminator
    networks = {"generator": state.network, "average": state.average.network}
    if discriminator is not None:
        networks["discriminator"] = discriminator.network
    for name, network in networks.items():
        for key, tensor in network.state_dict().items():
            if not bool(torch.isfinite(tensor).all()):
                raise TrainingError(
                    f"weights of the {name} are NaN or infinite after step {state.step} ({key}): training diverged, "
                    "and no checkpoint is written; resume from the one before with a lower learning rate in a new run"
                )


def _delete_folder(folder: Path) -> None:
    """Take a folder out of sight first: a half-deleted checkpoint must not look like one."""
    hidden = folder.with_name(f".partial-{folder.name}")
    try:
        folder.rename(hidden)
        shutil.rmtree(hidden)
    except OSError as error:
        raise output_error(folder, error) from error
