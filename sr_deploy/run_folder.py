"""Where things lie in the folder of a training run. No torch here.

runs/NAME/run.json  recipe.toml  metrics.jsonl  headers.jsonl  teacher.safetensors
runs/NAME/previews/step-000500.png  tensorboard/  wandb/
runs/NAME/checkpoints/step-000500/generator.safetensors  generator_ema.safetensors  discriminator.safetensors  state.pt
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sr_deploy.errors import InputError
from sr_deploy.untrusted import find_inside, read_json

MANIFEST_NAME = "run.json"
RECIPE_NAME = "recipe.toml"
METRICS_NAME = "metrics.jsonl"
HEADERS_NAME = "headers.jsonl"
"""What is known of each training picture: path, bytes, time, width, height."""
TEACHER_NAME = "teacher.safetensors"
"""Of a run that trains for INT8: the network that it began with, which is distilled in FP32."""
PREVIEWS_NAME = "previews"
TENSORBOARD_NAME = "tensorboard"
CHECKPOINTS_NAME = "checkpoints"

GENERATOR_NAME = "generator.safetensors"
AVERAGE_NAME = "generator_ema.safetensors"
"""The moving average of the generator's weights: what is validated and exported."""
DISCRIMINATOR_NAME = "discriminator.safetensors"
STATE_NAME = "state.pt"
"""Moments of the optimizers, counters, pool of pairs."""

CHECKPOINT_PATTERN = r"step-(\d{6,18})"
"""Name of a checkpoint's folder, with the updates made."""

_NAMED = re.compile(r"(.+)@(best|last|\d{1,18})")


def is_run(folder: Path) -> bool:
    """Whether a run lies there, finished or not."""
    return (folder / MANIFEST_NAME).is_file()


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint after `step` updates lies."""
    return run / CHECKPOINTS_NAME / f"step-{step:06d}"


def preview_file(run: Path, step: int) -> Path:
    """Where the preview after `step` updates lies."""
    return run / PREVIEWS_NAME / f"step-{step:06d}.png"


def list_checkpoints(run: Path) -> list[tuple[int, Path]]:
    """(step, folder) of a run's checkpoints, oldest first."""
    found = []
    for path in (run / CHECKPOINTS_NAME).glob("step-*"):  # nothing where the folder is missing, or cannot be read
        match = re.fullmatch(CHECKPOINT_PATTERN, path.name)
        if match and path.is_dir():
            found.append((int(match[1]), path))
    return sorted(found)


def list_previews(run: Path) -> list[tuple[int, str]]:
    """(step, name below the run's folder) of a run's previews, oldest first."""
    found = []
    for path in (run / PREVIEWS_NAME).glob("step-*.png"):
        if match := re.fullmatch(rf"{CHECKPOINT_PATTERN}\.png", path.name):
            found.append((int(match[1]), f"{PREVIEWS_NAME}/{path.name}"))
    return sorted(found)


def find_last_checkpoint(run: Path) -> tuple[int, Path] | None:
    """(step, folder) of a run's newest checkpoint."""
    checkpoints = list_checkpoints(run)
    return checkpoints[-1] if checkpoints else None


def list_kept(run: Path, newest: int, best: Path | None) -> list[Path]:
    """Folders of the checkpoints to keep, oldest first: the `newest` ones, and the best."""
    folders = [folder for _, folder in list_checkpoints(run)]
    return [folder for folder in folders if folder == best or folder in folders[-newest:]]


def split_checkpoint_name(path: Path) -> tuple[Path, str]:
    """A run and which of its checkpoints is meant, of `runs/demo@best`, `@last` or `@300`; empty: none is named."""
    named = _NAMED.fullmatch(path.name)
    if named is None or os.path.lexists(path) or not is_run(path.parent / named[1]):
        return path, ""
    return path.parent / named[1], named[2]


def find_named_checkpoint(run: Path, which: str) -> Path:
    """The folder of one of a run's checkpoints.

    Args:
        run: the run's folder.
        which: `best` (by validation), `last`, or the number of updates made.

    Raises:
        InputError: it is not kept, or the run's manifest cannot be read.
    """
    kept = dict(list_checkpoints(run))
    step = _read_best_step(run) if which == "best" else max(kept, default=None) if which == "last" else int(which)
    if step in kept:
        return kept[step]
    steps = ", ".join(map(str, kept)) or "none yet"
    raise InputError(
        f"{run} has no checkpoint {which!r}; kept are those after these numbers of steps: {steps}; give "
        f"{run}@STEP with one of them, or {run}@last"
    )


def _read_best_step(run: Path) -> int | None:
    """Step of the best checkpoint, by the manifest; older ones name no checkpoint, but their best validation."""
    document = read_json(find_inside(run, MANIFEST_NAME))
    if not isinstance(document, dict):
        return None
    named = re.fullmatch(f"{CHECKPOINTS_NAME}/{CHECKPOINT_PATTERN}", str(document.get("best_checkpoint")))
    if named is not None:
        return int(named[1])
    validation = document.get("best_validation")
    step = validation.get("step") if isinstance(validation, dict) else None
    return step if isinstance(step, int) else None


def list_weights(folder: Path) -> list[Path]:
    """Files of generators in a run's folder or in one of its checkpoints, newest first, averaged ones before others."""
    folders = [folder, *(path for _, path in reversed(list_checkpoints(folder)))]
    files = [path / name for path in folders for name in (AVERAGE_NAME, GENERATOR_NAME)]
    return [file for file in files if file.is_file()]
