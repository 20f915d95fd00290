"""What must stand before the first step: device, data, networks, number format, and the run folder."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from sr_deploy.arch.quantized import quantize_convolutions
from sr_deploy.errors import InputError, RecipeError
from sr_deploy.imaging.codec import training_decoder
from sr_deploy.run_folder import find_last_checkpoint
from sr_deploy.train.best import find_best_checkpoint
from sr_deploy.train.changes import find_changes, record_changes, record_pictures
from sr_deploy.train.checkpoint import delete_leftovers, read_checkpoint_into
from sr_deploy.train.headers import FileHeader, read_kept_headers
from sr_deploy.train.manifest import check_resumable, new_manifest, record_start
from sr_deploy.train.mixture import build_mixture
from sr_deploy.train.networks import (
    build_criteria,
    build_discriminator_state,
    build_generator,
    build_state,
    build_updater,
)
from sr_deploy.train.overlap import warn_of_overlap
from sr_deploy.train.paired import training_files
from sr_deploy.train.pairs import PairMaker, build_pair_maker, build_pool
from sr_deploy.train.precision import PrecisionChoice, choose_precision
from sr_deploy.train.processes import SINGLE_PROCESS, Processes
from sr_deploy.train.recipe import Recipe
from sr_deploy.train.recipe_images import open_training_images
from sr_deploy.train.run import (
    RunManifest,
    StartingPoint,
    claim_run_folder,
    hold_run,
    require_run,
)
from sr_deploy.train.sampling import PatchSampler
from sr_deploy.train.sinks import check_wandb
from sr_deploy.train.state import TrainingState
from sr_deploy.train.teacher import find_teacher
from sr_deploy.train.training_images import TrainingImages
from sr_deploy.train.update import Updater
from sr_deploy.train.validation import HeldOut, read_held_out

_LOG = logging.getLogger(__name__)
_DATA_KEYS = frozenset({"data", "data.folder", "data.source"})
_POOL_KEYS = ("degradation", "data.patch_size")
"""Sections and keys that what is in the pool was made by."""
_VALIDATION_KEYS = frozenset({"data.validation_folder", "data.validation_lr_folder", "data.held_out"})


@dataclass
class Session:
    """Everything that the loop works with."""

    recipe: Recipe
    """With overrides and defaults applied."""
    run: Path
    manifest: RunManifest
    """`run.json` as it was last written."""
    device: torch.device
    """Where the network is."""
    precision: PrecisionChoice
    sampler: PatchSampler
    make_pair: PairMaker
    """From a batch to what the networks see."""
    held_out: Sequence[HeldOut]
    """What it is validated on; nothing but in the first process."""
    updater: Updater
    state: TrainingState
    processes: Processes
    previews: bool
    """Whether pictures can be written here."""


@contextmanager
def open_session(
    recipe: Recipe,
    run: Path,
    *,
    resume: bool,
    device: str | None,
    start_from: Path | None,
    changes: Collection[str] = (),
    processes: Processes = SINGLE_PROCESS,
    numbered: bool = False,
) -> Iterator[Session]:
    """Prepare a new run in the empty folder `run`, or go on with the existing run; no other process may then.

    Args:
        recipe: what to train.
        run: the run's folder.
        resume: go on with it.
        device: as torch names it; None: the best.
        start_from: anything with weights for the generator.
        changes: keys of the recipe that may be others than in the run.
        processes: who trains along.
        numbered: for a new run: take the next free name of the recipe if `run` is taken.

    Raises:
        TrainingError: the run does not fit the recipe, its data changed, or there is none.
        LockedError: another process trains it.
        MissingDependencyError: the recipe sends to Weights & Biases, and its package is not installed.
        InputError, RecipeError, CheckpointError, OutputError: as their names say.
    """
    _check_share(recipe, processes)
    check_wandb(recipe.run.wandb)
    with ExitStack() as held:
        if resume:
            require_run(run)
            processes.broadcast(lambda: held.enter_context(hold_run(run)))
        yield _prepare(
            recipe, run, resume=resume, device=device, start_from=start_from, changes=changes, processes=processes,
            claim=lambda: held.enter_context(claim_run_folder(run, name=recipe.name if numbered else None)),
        )  # fmt: skip


def _prepare(
    recipe: Recipe,
    run: Path,
    *,
    resume: bool,
    device: str | None,
    start_from: Path | None,
    changes: Collection[str],
    processes: Processes,
    claim: Callable[[], Path],
) -> Session:
    """The session; the run is held by the first process, or is claimed by it as soon as all else stands."""
    chosen_device = choose_device(device, processes)
    files = training_files(recipe)
    kept = read_kept_headers(run) if resume else None
    photographs = open_training_images(recipe, files, kept or ())
    manifest, changed = _find_changed(recipe, run, photographs, kept, changes) if resume else (None, frozenset[str]())
    held_out = read_held_out(recipe) if processes.is_main else []
    warn_of_overlap(photographs, [one.path for one in held_out])
    sampler = PatchSampler(
        photographs, recipe, mixture=build_mixture(recipe, photographs, files.sources),
        rank=processes.rank, processes=processes.world_size,
    )  # fmt: skip
    network, starting_point = build_generator(recipe, None if resume else start_from, resume=resume)
    network.to(chosen_device)
    began_as = _start_quantized(recipe, network)
    teacher = find_teacher(recipe, began_as, run if resume else None, changed)
    if starting_point is not None and recipe.quantization is not None:  # not the copy whose channels are evened out
        given = recipe.quantization
        starting_point = StartingPoint(
            path=given.checkpoint or starting_point.path, sha256=given.checkpoint_sha256 or starting_point.sha256
        )
    criteria = build_criteria(recipe, chosen_device)
    discriminator = build_discriminator_state(recipe, chosen_device, resume=resume)
    if manifest is None:
        precision = processes.broadcast(lambda: _choose_precision(recipe, network, sampler, chosen_device))
        run = processes.broadcast(claim)
        manifest = new_manifest(
            recipe,
            run,
            precision,
            data_sha256=photographs.fingerprint(),
            device=chosen_device,
            starting_point=starting_point,
        )
    else:
        precision = PrecisionChoice.model_validate(manifest.precision.model_dump())
        processes.broadcast(lambda: delete_leftovers(run))
    recipe = _fix_precision(recipe, precision)
    state = build_state(recipe, network, discriminator, precision, chosen_device)
    _restore(state, recipe, run, changed, processes, resume=resume)
    updater = build_updater(
        recipe, state, criteria, teacher=teacher, precision=precision, device=chosen_device, processes=processes
    )
    headers = None if photographs.headers == kept else photographs.headers
    session = Session(
        recipe=recipe, run=run, manifest=manifest, device=chosen_device, precision=precision, sampler=sampler,
        make_pair=build_pair_maker(recipe, chosen_device, state.pool), held_out=held_out, updater=updater, state=state,
        processes=processes, previews=training_decoder() == "pyvips",
    )  # fmt: skip
    processes.broadcast(lambda: record_start(session, teacher, headers, resume=resume))
    return session


def _find_changed(
    recipe: Recipe,
    run: Path,
    photographs: TrainingImages,
    kept: Sequence[FileHeader] | None,
    asked: Collection[str],
) -> tuple[RunManifest, frozenset[str]]:
    """The manifest of the run that goes on, with its history, and the keys of the recipe that changed."""
    manifest, differences = check_resumable(recipe, run, asked), find_changes(recipe, run, asked)
    manifest = record_pictures(
        manifest,
        run,
        kept,
        photographs.headers,
        photographs.fingerprint(),
        any_pictures=not _DATA_KEYS.isdisjoint(asked),
    )
    return record_changes(manifest, run, differences), frozenset(one.key for one in differences)


def _restore(
    state: TrainingState, recipe: Recipe, run: Path, changed: Collection[str], processes: Processes, *, resume: bool
) -> None:
    """Put the last checkpoint into a state that was just built, but for what no longer fits the recipe."""
    pool = build_pool(recipe, processes.rank)
    state.pool = None if any(key.startswith(_POOL_KEYS) for key in changed) else pool
    last = find_last_checkpoint(run) if resume else None
    if last is not None and not read_checkpoint_into(
        last[1], state, rank=processes.rank, processes=processes.world_size
    ):
        _LOG.warning("the pool of training pairs begins anew: %s was written by another number of processes", last[1])
    if state.pool is not pool:
        state.pool = pool
        _LOG.warning("the pool of training pairs begins anew: %s changed", ", ".join(sorted(changed)))
    if not _VALIDATION_KEYS.isdisjoint(changed):
        state.best_validation = None  # of other pictures
    if recipe.run.keep_best and find_best_checkpoint(run, recipe.run, state.best_validation, None) is None:
        state.best_validation = None  # its checkpoint is gone, or never was: what is best is asked of those to come


def _start_quantized(recipe: Recipe, network: nn.Module) -> nn.Module | None:
    """Let `network` compute as the recipe quantizes it; gives the FP32 network that it began as, None without INT8."""
    if recipe.quantization is None:
        return None
    began_as = copy.deepcopy(network)
    quantize_convolutions(network, recipe.quantization.input_steps)
    return began_as


def choose_device(name: str | None, processes: Processes = SINGLE_PROCESS) -> torch.device:
    """The device of that name, or the best one here; side by side, each process has a GPU of its own.

    Raises:
        InputError: no such device here.
    """
    available = ["cpu"]
    if torch.cuda.is_available():
        available = ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count())), "cpu"]
    chosen = name or available[0]
    if processes.world_size > 1 and chosen == "cuda":
        chosen = f"cuda:{processes.local_rank}"
        torch.cuda.set_device(processes.local_rank)
    if chosen not in available:
        raise InputError(f"no device {chosen!r} here; available: {', '.join(available)}")
    return torch.device(chosen)


def _choose_precision(
    recipe: Recipe, network: nn.Module, sampler: PatchSampler, device: torch.device
) -> PrecisionChoice:
    """By a forward pass of the generator on a batch of the right shape."""
    shape = (sampler.share, recipe.channels, recipe.data.patch_size, recipe.data.patch_size)
    hr_NCHW = torch.rand(shape, generator=torch.Generator().manual_seed(recipe.seed))
    lr_NCHW = torch.nn.functional.avg_pool2d(hr_NCHW, recipe.scale)
    return choose_precision(recipe.precision, network, lr_NCHW.to(device), recipe.run.steps)


def _check_share(recipe: Recipe, processes: Processes) -> None:
    parts = processes.world_size * recipe.optimizer.accumulate
    if recipe.data.batch % parts:
        raise RecipeError(
            f"data.batch = {recipe.data.batch} does not divide among {processes.world_size} processes with "
            f"optimizer.accumulate = {recipe.optimizer.accumulate}; give a multiple of {parts}"
        )


def _fix_precision(recipe: Recipe, precision: PrecisionChoice) -> Recipe:
    """The recipe with what was measured in place of "auto": it then gives the same bits on a like machine."""
    fixed = {"autocast": precision.autocast, "channels_last": precision.channels_last}
    return recipe.model_copy(update={"precision": recipe.precision.model_copy(update=fixed)})
