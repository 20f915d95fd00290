"""Where a run's metrics and previews are shown, beside its own log: TensorBoard, where that package is installed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sr_deploy.names import lend_path


class MetricsSink(Protocol):
    """Something open that shows curves and pictures by step."""

    def add_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Take figures by name, as in `training/loss`."""

    def add_image(self, step: int, name: str, image_HWC: NDArray[np.uint8]) -> None:
        """Take a picture, H x W x 3."""

    def close(self) -> None:
        """End it; nothing more comes."""


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

    def close(self) -> None:
        """As in `MetricsSink`."""
        with self._open:
            self._writer.close()
