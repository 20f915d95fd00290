"""Where things lie in the folder of a training run. No torch here.

runs/NAME/run.json  recipe.toml  metrics.jsonl  headers.jsonl  teacher.safetensors
runs/NAME/previews/step-000500.png  tensorboard/
runs/NAME/checkpoints/step-000500/generator.safetensors  generator_ema.safetensors  discriminator.safetensors  state.pt
"""

from __future__ import annotations

import re
from pathlib import Path

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


def find_last_checkpoint(run: Path) -> tuple[int, Path] | None:
    """(step, folder) of a run's newest checkpoint."""
    checkpoints = list_checkpoints(run)
    return checkpoints[-1] if checkpoints else None


def list_weights(folder: Path) -> list[Path]:
    """Files of generators in a run's folder or in one of its checkpoints, newest first, averaged ones before others."""
    folders = [folder, *(path for _, path in reversed(list_checkpoints(folder)))]
    files = [path / name for path in folders for name in (AVERAGE_NAME, GENERATOR_NAME)]
    return [file for file in files if file.is_file()]
