"""Figures of steps on their way from the device to the log."""

from __future__ import annotations

import torch
from torch import Tensor

from sr_deploy.errors import TrainingError
from sr_deploy.train.processes import Processes
from sr_deploy.train.state import TrainingState


class MetricBuffer:
    """Keeps metrics on the device until they are due: to read each at once would make a GPU wait."""

    def __init__(self, state: TrainingState, processes: Processes, bad_steps: int) -> None:
        """`bad_steps`: non-finite steps in a row that are allowed."""
        self._state = state
        self._processes = processes
        self._bad_steps = bad_steps
        self._waiting: list[dict[str, Tensor]] = []

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Take what an update returned; the state's step is counted already."""
        self._waiting.append(metrics)

    def collect(self) -> None:
        """Move what waits into the state, steps that were left out apart.

        Raises:
            TrainingError: too many were left out in a row.
        """
        if not self._waiting:
            return
        names = list(self._waiting[0])
        table = torch.stack([torch.stack([metrics[name] for name in names]) for metrics in self._waiting])
        rows = self._processes.average(table).tolist()
        first = self._state.step - len(rows) + 1
        self._waiting.clear()
        for offset, row in enumerate(rows):
            metrics = dict(zip(names, row, strict=True))
            if metrics.pop("healthy") == 1.0:
                self._state.bad_in_row = 0
                for name, value in metrics.items():
                    self._state.metrics.setdefault(name, []).append(value)
            else:
                self._count_bad(first + offset, metrics["loss"])

    def take_means(self) -> dict[str, float]:
        """Means of the steps since the last call, and how many were left out; none of the losses if all were."""
        metrics, self._state.metrics = self._state.metrics, {}
        means = {name: sum(values) / len(values) for name, values in metrics.items()}
        skipped, self._state.skipped_lately = self._state.skipped_lately, 0
        return {**means, "skipped_steps": skipped} if skipped else means

    def _count_bad(self, step: int, loss: float) -> None:
        state = self._state
        state.skipped += 1
        state.skipped_lately += 1
        state.bad_in_row += 1
        if state.bad_in_row > self._bad_steps:
            raise TrainingError(
                f"the loss or its gradient was NaN or infinite in {state.bad_in_row} steps in a row, up to step {step} "
                f"(loss {loss}): training has diverged; start anew with a lower --set optimizer.learning_rate=... "
                "or with --set precision.autocast=off"
            )
