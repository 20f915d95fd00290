"""What must stand before the first step: device, data, networks, number format, and the run folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sr_deploy.arch.registry import build_network, input_multiple
from sr_deploy.errors import InputError, OutputError, RecipeError, TrainingError
from sr_deploy.files import sha256_of
from sr_deploy.imaging.codec import training_decoder
from sr_deploy.measure.machine import describe_machine, tool_versions
from sr_deploy.model import open_model
from sr_deploy.train.checkpoint import TrainingState, delete_leftovers, read_checkpoint_into
from sr_deploy.train.ema import MovingAverage
from sr_deploy.train.losses import Criterion, build_pixel_loss
from sr_deploy.train.photographs import Photographs, Report, training_paths
from sr_deploy.train.precision import PrecisionChoice, choose_precision
from sr_deploy.train.recipe import Recipe, find_differences, read_run_recipe, write_recipe
from sr_deploy.train.run import (
    RECIPE_NAME,
    PrecisionRecord,
    RunManifest,
    StartingPoint,
    claim_run_folder,
    find_last_checkpoint,
    list_checkpoints,
    require_run,
    write_manifest,
)
from sr_deploy.train.sampling import Batch, PatchSampler
from sr_deploy.train.validation import HeldOut, read_held_out


@dataclass
class Session:
    """Everything that the loop works with."""

    recipe: Recipe
    """Resolved."""
    run: Path
    """The run's folder."""
    manifest: RunManifest
    """As last written."""
    device: torch.device
    """Where the network is."""
    precision: PrecisionChoice
    """How it computes."""
    sampler: PatchSampler
    """The batches."""
    held_out: Sequence[HeldOut]
    """What it is validated on."""
    criterion: Criterion
    """The loss."""
    state: TrainingState
    """What changes."""
    previews: bool
    """Whether pictures can be written here."""


def open_session(
    recipe: Recipe, run: Path, *, resume: bool, device: str | None, start_from: Path | None, report: Report
) -> Session:
    """Prepare a new run in the empty folder `run`, or go on with the run that lies there.

    Raises:
        TrainingError: the run does not fit the recipe, its data changed, or there is none.
        InputError, RecipeError, CheckpointError, OutputError: as their names say.
    """
    manifest = check_resumable(recipe, run) if resume else None
    chosen_device = choose_device(device)
    photographs = _open_photographs(recipe, report)
    fingerprint = photographs.fingerprint()
    if manifest is not None and manifest.data_sha256 != fingerprint:
        raise TrainingError(
            f"cannot resume {run}: the training images are not those it began with (names or sizes differ); "
            "bring them back, or start a new run from its weights with --from"
        )
    held_out = read_held_out(recipe, report)
    sampler = PatchSampler(photographs, recipe)
    network, starting_point = _build_generator(recipe, None if resume else start_from, resume=resume)
    network.to(chosen_device)
    criterion = build_pixel_loss(recipe.loss)
    if manifest is None:
        precision = _choose_precision(recipe, network, criterion, sampler.draw_batch(0), chosen_device)
        manifest = _new_manifest(
            recipe, run, precision, data_sha256=fingerprint, device=chosen_device, starting_point=starting_point
        )
        claim_run_folder(run)
    else:
        precision = PrecisionChoice.model_validate(manifest.precision.model_dump())
        delete_leftovers(run)
    recipe = _fix_precision(recipe, precision)
    network.train().to(memory_format=precision.memory_format())  # type: ignore[call-overload]
    state = _build_state(recipe, network, precision, chosen_device)
    if resume and (last := find_last_checkpoint(run)) is not None:
        read_checkpoint_into(last[1], state)
    session = Session(
        recipe=recipe, run=run, manifest=manifest, device=chosen_device, precision=precision, sampler=sampler,
        held_out=held_out, criterion=criterion, state=state, previews=training_decoder() == "pyvips",
    )  # fmt: skip
    _record_start(session, resume=resume)
    return session


def choose_device(name: str | None) -> torch.device:
    """The device of that name, or the best one here.

    Raises:
        InputError: no such device here.
    """
    available = ["cpu"]
    if torch.cuda.is_available():
        available = ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count())), "cpu"]
    if name is not None and name not in available:
        raise InputError(f"no device {name!r} here; available: {', '.join(available)}")
    return torch.device(name or available[0])


def to_tensors(batch: Batch, device: torch.device, precision: PrecisionChoice) -> tuple[Tensor, Tensor]:
    """(low, high resolution) as N x C x H x W in [0, 1] on the device, in the layout of the run."""
    return _to_tensor(batch.lr, device, precision), _to_tensor(batch.hr, device, precision)


def update_manifest(session: Session, **changes: object) -> None:
    """Write `run.json` with the present step and what else changed.

    Raises:
        OutputError: it cannot be written.
    """
    state = session.state
    present = {
        "step": state.step,
        "steps": session.recipe.run.steps,
        "seconds": round(state.seconds, 2),
        "best_validation": state.best_validation,
        "device": str(session.device),
        "checkpoints": tuple(str(path.relative_to(session.run)) for _, path in list_checkpoints(session.run)),
    }
    session.manifest = write_manifest(session.run, session.manifest.model_copy(update={**present, **changes}))


def check_resumable(recipe: Recipe, run: Path) -> RunManifest:
    """The manifest of a run that `recipe` can go on with.

    Raises:
        TrainingError: there is no run, or it was trained by another recipe; the message names what differs.
    """
    manifest = require_run(run)
    if differences := find_differences(read_run_recipe(run / RECIPE_NAME), recipe):
        raise TrainingError(
            f"cannot resume {run} with another recipe: {'; '.join(differences)}; leave the recipe as it was "
            "(only data.workers, data.cache_gib and what is under run may change), or start a new run"
        )
    last = find_last_checkpoint(run)
    if last is not None and last[0] > recipe.run.steps:
        raise TrainingError(
            f"cannot resume {run} to run.steps = {recipe.run.steps}: its last checkpoint is of step {last[0]} already"
        )
    return manifest


def _open_photographs(recipe: Recipe, report: Report) -> Photographs:
    multiple = recipe.scale * input_multiple(recipe.arch_spec())
    if recipe.data.patch_size % multiple:
        raise RecipeError(
            f"data.patch_size = {recipe.data.patch_size} does not fit {recipe.arch_spec().title()}; "
            f"give a multiple of {multiple}"
        )
    photographs = Photographs(
        training_paths(recipe.data),
        scale=recipe.scale,
        least_side=recipe.data.patch_size,
        multiple=recipe.scale,
        cache_gib=recipe.data.cache_gib,
        report=report,
    )
    photographs.read_ahead(threads=recipe.data.workers)
    return photographs


def _build_generator(
    recipe: Recipe, start_from: Path | None, *, resume: bool
) -> tuple[nn.Module, StartingPoint | None]:
    if start_from is None and recipe.init_from is not None and not resume:
        raise TrainingError(
            f"recipe {recipe.name} starts from a generator of recipe {recipe.init_from}; "
            "train that first and give its run with --from"
        )
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        torch.manual_seed(recipe.seed)
        network = build_network(recipe.arch_spec())
    if start_from is None:
        return network, None
    model = open_model(start_from)
    if model.arch != recipe.arch_spec():
        there = model.arch.title() if model.arch else "a graph without weights"
        raise TrainingError(
            f"cannot start from {start_from}: it holds {there}, and recipe {recipe.name} trains "
            f"{recipe.arch_spec().title()}; give weights of that network, or change the recipe's network with --set"
        )
    network.load_state_dict(model.load_network().state_dict())
    weights = model.weights_path or model.path
    return network, StartingPoint(path=str(start_from), sha256=sha256_of(weights))


def _choose_precision(
    recipe: Recipe, network: nn.Module, criterion: Criterion, batch: Batch, device: torch.device
) -> PrecisionChoice:
    plain = PrecisionChoice(autocast="off", channels_last=False)
    return choose_precision(recipe.precision, network, criterion, *to_tensors(batch, device, plain))


def _fix_precision(recipe: Recipe, precision: PrecisionChoice) -> Recipe:
    """The recipe with what was measured in place of "auto": it then gives the same bits on a like machine."""
    fixed = {"autocast": precision.autocast, "channels_last": precision.channels_last}
    return recipe.model_copy(update={"precision": recipe.precision.model_copy(update=fixed)})


def _build_state(recipe: Recipe, network: nn.Module, precision: PrecisionChoice, device: torch.device) -> TrainingState:
    optimiser = torch.optim.Adam(
        network.parameters(), lr=recipe.optimiser.learning_rate, betas=recipe.optimiser.betas, fused=True
    )
    return TrainingState(
        network=network,
        average=MovingAverage(network, recipe.ema),
        optimiser=optimiser,
        scaler=torch.amp.GradScaler(device.type, enabled=precision.autocast == "fp16"),
    )


def _record_start(session: Session, *, resume: bool) -> None:
    """Write recipe and manifest. A new run that cannot be written leaves nothing behind."""
    last = session.manifest.last_validation
    if last is not None and last.step > session.state.step:
        last = None  # those steps come again
    try:
        write_recipe(session.run / RECIPE_NAME, session.recipe)
        update_manifest(session, status="running", last_validation=last, machine=describe_machine())
    except OutputError:
        if not resume:
            shutil.rmtree(session.run, ignore_errors=True)
        raise


def _new_manifest(
    recipe: Recipe,
    run: Path,
    precision: PrecisionChoice,
    *,
    data_sha256: str,
    device: torch.device,
    starting_point: StartingPoint | None,
) -> RunManifest:
    now = datetime.now(UTC)
    return RunManifest(
        name=run.name,
        recipe=recipe.name,
        created_at=now,
        updated_at=now,
        status="running",
        step=0,
        steps=recipe.run.steps,
        seconds=0.0,
        precision=PrecisionRecord.model_validate(precision.model_dump()),
        device=str(device),
        data_sha256=data_sha256,
        started_from=starting_point,
        versions=tool_versions(),
        machine=describe_machine(),
    )


def _to_tensor(images_NHWC: NDArray[np.uint8], device: torch.device, precision: PrecisionChoice) -> Tensor:
    pixels = torch.from_numpy(images_NHWC)
    if device.type == "cuda":
        pixels = pixels.pin_memory().to(device, non_blocking=True)
    return pixels.permute(0, 3, 1, 2).float().div_(255).contiguous(memory_format=precision.memory_format())
