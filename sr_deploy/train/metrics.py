"""Figures of a run: a JSON line each, and what shows them beside it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sr_deploy.deps import install_command, is_installed
from sr_deploy.errors import InputError
from sr_deploy.files import output_error, write_text
from sr_deploy.measure.quality import average_scores
from sr_deploy.run_folder import METRICS_NAME, TENSORBOARD_NAME
from sr_deploy.train.run import ValidationResult
from sr_deploy.train.sinks import MetricsSink, TensorBoardSink, WandbRun, WandbSink
from sr_deploy.untrusted import open_for_appending, open_regular

DISCRIMINATOR_METRICS = ("discriminator", "d_real", "d_fake")
"""The discriminator's loss, and its mean logits for originals and for results."""
OTHER_METRICS = frozenset(
    {"step", "kind", "loss", "healthy", "skipped_steps", "learning_rate", "steps_per_second", "data_wait"}
    | {"gradient_norm", "discriminator_gradient_norm", "weight_norm"}
    | set(DISCRIMINATOR_METRICS)
)
"""What a step or a line of kind `training` has beside the terms of the loss, which have the names of the losses."""
_LAST_STEP = 2**53


class MetricsLog:
    """Open log of one run; a context manager."""

    def __init__(self, run: Path, step: int, wandb: WandbRun | None = None) -> None:
        """Open the log of a run that goes on after `step` updates: later lines are dropped, they will come again.

        Args:
            run: the run's folder.
            step: updates made.
            wandb: what is sent to Weights & Biases too; None: nothing is.

        Raises:
            InputError: what is there cannot be read.
            OutputError: it cannot be written.
        """
        self._path = run / METRICS_NAME
        _drop_after(run, step)
        self._sinks: list[MetricsSink] = []
        self.advice = f"TensorBoard curves need: {install_command('tensorboard')}"
        if is_installed("tensorboard"):
            self.advice = ""
            self._sinks.append(TensorBoardSink(run / TENSORBOARD_NAME, step))
        if wandb is not None:
            self._sinks.append(WandbSink(run, wandb))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        with contextlib.ExitStack() as closing:  # all of them, whatever one raises
            for sink in self._sinks:
                closing.callback(sink.close, failed=kind is not None)

    def log_training(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write metrics of the steps since the last line: means of `loss` and of its terms, `learning_rate`, the pace.

        Raises:
            OutputError: no space, no permission.
        """
        self._append({"step": step, "kind": "training", **metrics})
        self._show("training", step, metrics)

    def log_validation(self, result: ValidationResult) -> None:
        """Write means and each photograph.

        Raises:
            OutputError: no space, no permission.
        """
        self._append({"step": result.step, "kind": "validation", **result.model_dump(mode="json", exclude={"step"})})
        self._show("validation", result.step, result.model.model_dump(exclude_none=True))
        self._show("bicubic", result.step, result.bicubic.model_dump(exclude_none=True))
        if result.degraded:
            mean = average_scores([one.model for one in result.degraded])
            self._show("validation_degraded", result.step, mean.model_dump(exclude_none=True))

    def log_preview(self, step: int, image_HWC: NDArray[np.uint8]) -> None:
        """Show a preview, H x W x 3, as `write_preview` gives it; its file is the run's own log of it."""
        for sink in self._sinks:
            sink.add_image(step, "preview", image_HWC)

    def _append(self, line: Mapping[str, object]) -> None:
        try:
            with open_for_appending(self._path) as stream:
                stream.write(json.dumps(line) + "\n")
        except OSError as error:
            raise output_error(self._path, error) from error

    def _show(self, group: str, step: int, metrics: Mapping[str, float]) -> None:
        for sink in self._sinks:
            sink.add_scalars(step, {f"{group}/{name}": value for name, value in metrics.items()})


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log that can be read; each has `step`, an integer, and `kind`, text.

    The last line of a run that is being written, or was killed, may be cut short.

    Raises:
        InputError: the log cannot be read, or is not a plain file.
    """
    path = run / METRICS_NAME
    if not os.path.lexists(path):
        return []
    try:
        with open_regular(path) as stream:
            lines = stream.read().splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            document = json.loads(line)
            whole = isinstance(document, dict) and isinstance(document.get("kind"), str)
            if whole and type(document.get("step")) is int and 0 <= document["step"] <= _LAST_STEP:
                found.append(document)
    return found


def _drop_after(run: Path, step: int) -> None:
    if os.path.lexists(run / METRICS_NAME):
        kept = [json.dumps(line) + "\n" for line in read_metrics(run) if line["step"] <= step]
        write_text(run / METRICS_NAME, "".join(kept))
