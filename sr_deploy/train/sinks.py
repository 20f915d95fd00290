"""Where a run's metrics and previews are shown, beside its own log: TensorBoard, and Weights & Biases if asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sr_deploy.deps import require
from sr_deploy.errors import one_line
from sr_deploy.names import lend_path
from sr_deploy.run_folder import METRICS_NAME

_LOG = logging.getLogger(__name__)
_WANDB_SETTINGS = {
    # What it would send beside what it is given: output, host, hardware and its load, packages, code, repository.
    "console": "off",
    "host": "",
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "save_code": False,
    "disable_git": True,
    "silent": True,
    # Without a limit the end of a training waits for a network that is gone.
    "finish_timeout": 60.0,
    "finish_timeout_raises": True,
}


class MetricsSink(Protocol):
    """Something open that shows curves and pictures by step."""

    def add_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Take figures by name, as in `training/loss`."""

    def add_image(self, step: int, name: str, image_HWC: NDArray[np.uint8]) -> None:
        """Take a picture, H x W x 3."""

    def close(self, *, failed: bool) -> None:
        """End it; `failed`: by an error."""


class TensorBoardSink:
    """Event files for TensorBoard."""

    def __init__(self, folder: Path, step: int) -> None:
        """Open the events in `folder` of a run that goes on after `step` updates: later ones are not shown."""
        from torch.utils.tensorboard import SummaryWriter

        self._open = ExitStack()
        self._writer = SummaryWriter(str(self._open.enter_context(lend_path(folder))), purge_step=step + 1)

    def add_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """As in `MetricsSink`."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def add_image(self, step: int, name: str, image_HWC: NDArray[np.uint8]) -> None:
        """As in `MetricsSink`."""
        self._writer.add_image(name, image_HWC, step, dataformats="HWC")

    def close(self, *, failed: bool) -> None:
        """As in `MetricsSink`."""
        with self._open:
            self._writer.close()


class WandbRun(NamedTuple):
    """A run at Weights & Biases."""

    project: str
    name: str
    """As it is shown."""
    id: str
    """One there is goes on."""


class WandbSink:
    """Weights & Biases. What fails there ends no training: it is said once, and nothing more is sent."""

    def __init__(self, folder: Path, target: WandbRun) -> None:
        """Begin a run, or go on with the one of that id; the package keeps its files in `folder`."""
        self._run: Any = None
        with self._surviving():
            import wandb

            settings = wandb.Settings(**_WANDB_SETTINGS)
            self._image = wandb.Image
            self._run = wandb.init(
                project=target.project,
                name=target.name,
                id=target.id,
                resume="allow",
                dir=str(folder),
                settings=settings,
            )
            # Its own count of steps only grows: of a run that goes on from a checkpoint it would leave steps out.
            self._run.define_metric("*", step_metric="step")
            if not self._run.offline:
                _LOG.info("Weights & Biases shows this run: %s", self._run.url)

    def add_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """As in `MetricsSink`."""
        self._send(step, scalars)

    def add_image(self, step: int, name: str, image_HWC: NDArray[np.uint8]) -> None:
        """As in `MetricsSink`."""
        if self._run is not None:
            self._send(step, {name: self._image(image_HWC)})

    def close(self, *, failed: bool) -> None:
        """As in `MetricsSink`."""
        if self._run is not None:
            with self._surviving():
                self._run.finish(exit_code=int(failed))

    def _send(self, step: int, values: Mapping[str, object]) -> None:
        if self._run is not None:
            with self._surviving():
                self._run.log({**values, "step": step})

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a service's: networks, logins, limits, whatever it raises
            self._run = None
            _LOG.warning(
                "Weights & Biases failed, and gets nothing more of this run (%s): %s; %s has all figures",
                type(error).__name__, one_line(error), METRICS_NAME,
            )  # fmt: skip


def check_wandb(project: str) -> None:
    """Check that the package is there, where a recipe names a project (`run.wandb`).

    Raises:
        MissingDependencyError: it is not installed, or broken.
    """
    if project:
        require("wandb", f"run.wandb = {project!r}")
