"""What tests of folders have in common: a runner that repeats pixels, and what came of a job."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sr_deploy.runners.base import BaseRunner
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.upscale.folder import FolderResult
from sr_deploy.upscale.folder_journal import JOURNAL_NAME


class NearestRunner(BaseRunner):
    """Repeats pixels; counts calls, and can do something at each."""

    def __init__(self, artifact: Path | None = None) -> None:
        super().__init__(RunnerSpec("torch", "0", "fp32", "cpu", 2, 3, artifact=artifact))
        self.calls = 0
        self.at_call = lambda _number: None

    def _infer(self, lr_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        self.calls += 1
        self.at_call(self.calls)
        return np.repeat(np.repeat(lr_NCHW, 2, axis=2), 2, axis=3)

    def _release(self) -> None:
        pass


def names(folder: Path) -> list[str]:
    """All files but the record, as paths in the folder."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.startswith(JOURNAL_NAME))


def counts(result: FolderResult) -> tuple[int, int, int, int]:
    return len(result.done), len(result.skipped), len(result.failures), len(result.left)
