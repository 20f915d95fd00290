"""Figures of a run: a JSON line each, and TensorBoard events where that package is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from sr_deploy.deps import install_command, is_installed
from sr_deploy.files import output_error, write_text
from sr_deploy.train.run import METRICS_NAME, ValidationResult

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class MetricsLog:
    """Open log of one run; a context manager."""

    def __init__(self, run: Path, step: int) -> None:
        """Open the log of a run that goes on after `step` updates: later lines are dropped, they will come again.

        Raises:
            OutputError: it cannot be written.
        """
        self._path = run / METRICS_NAME
        _drop_after(self._path, step)
        self._events = _open_events(run / "tensorboard", step)
        self.advice = "" if self._events else f"TensorBoard curves need: {install_command('tensorboard')}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._events:
            self._events.close()

    def log_training(self, step: int, figures: Mapping[str, float]) -> None:
        """Write figures of the steps since the last line: means of `loss` and of its terms, `learning_rate`, the pace.

        Raises:
            OutputError: no space, no permission.
        """
        self._append({"step": step, "kind": "training", **figures})
        self._add_events("training", step, figures)

    def log_validation(self, result: ValidationResult) -> None:
        """Write means and each photograph.

        Raises:
            OutputError: no space, no permission.
        """
        self._append({"step": result.step, "kind": "validation", **result.model_dump(mode="json", exclude={"step"})})
        self._add_events("validation", result.step, result.model.model_dump())
        self._add_events("bicubic", result.step, result.bicubic.model_dump())

    def _append(self, line: Mapping[str, object]) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
        except OSError as error:
            raise output_error(self._path, error) from error

    def _add_events(self, group: str, step: int, figures: Mapping[str, float]) -> None:
        if self._events:
            for name, value in figures.items():
                self._events.add_scalar(f"{group}/{name}", value, step)


def _drop_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            logged = json.loads(line)["step"]
        except ValueError:
            continue  # the last line of a killed run, cut short
        if logged <= step:
            kept.append(line + "\n")
    write_text(path, "".join(kept))


def _open_events(folder: Path, step: int) -> SummaryWriter | None:
    if not is_installed("tensorboard"):
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)
