"""What a builder is doing: told by the worker in marked lines, read back by the process that waits for it."""

from __future__ import annotations

import json
import sys
import time
from types import ModuleType
from typing import Any

from sr_deploy.progress import Progress

PROGRESS_MARK = "sr-deploy-progress: "
"""Begins the lines of the worker's output that say how far it is."""

_QUIET_SECONDS = 0.2


def tell_stage(stage: str, done: int = 0, total: int = 0) -> None:
    """Say in the worker what is being done."""
    line = PROGRESS_MARK + json.dumps([stage, done, total])
    # One write a line: the builder calls from several threads, and its libraries write beside us.
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def read_progress(line: str, seconds: float) -> Progress | None:
    """What a line of the worker's output says of its progress; None if it is another kind of line.

    The stage is in the builder's own words, with the steps of that stage: `Building engine: Timing graph nodes 2/7`.
    How many stages follow it does not say: what is counted are the seconds since the build began.
    """
    if not line.startswith(PROGRESS_MARK):
        return None
    stage, done, total = json.loads(line.removeprefix(PROGRESS_MARK))
    return Progress(f"{stage} {done}/{total}" if total else str(stage), seconds, None, "s")


def make_monitor(sdk: ModuleType) -> Any:  # noqa: ANN401
    """An `IProgressMonitor` of the SDK: tells each phase as it begins, and its steps, five times a second at most."""

    class Monitor(sdk.IProgressMonitor):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            sdk.IProgressMonitor.__init__(self)
            self._phases: dict[str, tuple[str, str, int]] = {}
            self._told = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            # Phases lie within phases, up to six deep: the outermost and the innermost say enough.
            root = self._phases.get(parent_phase or "", (phase_name, "", 0))[0]
            title = phase_name if root == phase_name else f"{root}: {phase_name}"
            self._phases[phase_name] = (root, title, num_steps)
            self._tell(title, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            _, title, total = self._phases.get(phase_name, ("", phase_name, 0))
            if time.monotonic() - self._told >= _QUIET_SECONDS:
                self._tell(title, step + 1, total)
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            self._phases.pop(phase_name, None)

        def _tell(self, title: str, done: int, total: int) -> None:
            self._told = time.monotonic()
            tell_stage(title, done, total)

    return Monitor()
