"""What a training writes about itself into its run's folder: the recipe, and the manifest as it goes on."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sr_deploy.errors import OutputError, TrainingError
from sr_deploy.measure.machine import describe_machine, tool_versions
from sr_deploy.run_folder import RECIPE_NAME, find_last_checkpoint, list_kept
from sr_deploy.train.best import find_best_checkpoint
from sr_deploy.train.changes import find_changes
from sr_deploy.train.headers import FileHeader, write_headers
from sr_deploy.train.precision import PrecisionChoice
from sr_deploy.train.recipe import Recipe, write_recipe
from sr_deploy.train.run import (
    PrecisionRecord,
    RunManifest,
    StartingPoint,
    require_kept,
    require_run,
    write_manifest,
)

if TYPE_CHECKING:
    from sr_deploy.train.session import Session
    from sr_deploy.train.teacher import TeacherNetwork


def check_resumable(recipe: Recipe, run: Path, allowed: Collection[str] = ()) -> RunManifest:
    """The manifest of a run that `recipe` can go on with; `allowed` as in `find_changes`.

    Raises:
        TrainingError: there is no run, or it was trained by another recipe; the message names what differs.
    """
    manifest = require_run(run)
    find_changes(recipe, run, allowed)
    last = find_last_checkpoint(run)
    if last is not None and last[0] > recipe.run.steps:
        raise TrainingError(
            f"cannot resume {run} to run.steps = {recipe.run.steps}: its last checkpoint is of step {last[0]} already"
        )
    return manifest


def new_manifest(
    recipe: Recipe,
    run: Path,
    precision: PrecisionChoice,
    *,
    data_sha256: str,
    device: torch.device,
    starting_point: StartingPoint | None,
) -> RunManifest:
    """The manifest of a run that begins now; nothing is written."""
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


def record_start(
    session: Session, teacher: TeacherNetwork | None, headers: Sequence[FileHeader] | None, *, resume: bool
) -> None:
    """Write recipe, manifest and the teacher. A new run that cannot be written leaves nothing behind.

    Args:
        session: of the run.
        teacher: whom the generator learns from.
        headers: of the pictures; None: those that are kept hold.
        resume: whether the run was there before.

    Raises:
        OutputError: it cannot be written.
    """
    last = session.manifest.last_validation
    if last is not None and last.step > session.state.step:
        last = None  # those steps come again
    try:
        write_recipe(session.run / RECIPE_NAME, session.recipe)
        if headers is not None:
            write_headers(session.run, headers)
        if teacher is not None:
            teacher.keep(session.run)
        wandb_id = session.manifest.wandb_id or (secrets.token_hex(8) if session.recipe.run.wandb else None)
        update_manifest(session, status="running", last_validation=last, machine=describe_machine(), wandb_id=wandb_id)
    except (OutputError, KeyboardInterrupt):
        if not resume:
            shutil.rmtree(session.run, ignore_errors=True)
        raise


def update_manifest(session: Session, **changes: object) -> None:
    """Write `run.json` with the present step and what else changed; the first process does it for all.

    Raises:
        OutputError: it cannot be written.
    """
    state, run = session.state, session.recipe.run
    best = find_best_checkpoint(session.run, run, state.best_validation, session.manifest.best_checkpoint)
    present = {
        "step": state.step,
        "steps": run.steps,
        "seconds": round(state.seconds, 2),
        "skipped_steps": state.skipped,
        "processes": session.processes.world_size,
        "best_validation": state.best_validation,
        "best_checkpoint": _name_below(session.run, best) if best is not None else None,
        "device": str(session.device),
        "checkpoints": tuple(
            _name_below(session.run, folder) for folder in list_kept(session.run, run.keep_checkpoints, best)
        ),
    }
    manifest = session.manifest.model_copy(update={**present, **changes})
    if session.processes.is_main:
        require_kept(session.run)
        manifest = write_manifest(session.run, manifest)
    session.manifest = manifest


def _name_below(run: Path, folder: Path) -> str:
    return folder.relative_to(run).as_posix()
