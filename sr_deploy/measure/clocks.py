"""A GPU's clock held at one frequency for a while, where its driver allows that. No torch here."""

from __future__ import annotations

import shutil
import subprocess
from typing import Self

from pydantic import BaseModel

from sr_deploy.gpus import Gpu
from sr_deploy.legible import make_legible

_SECONDS = 30
_LET_GO = "--reset-gpu-clocks"  # it sets back the clocks alone, not the GPU


class ClockLock(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """The clock that a GPU was to keep."""

    mhz: int
    """Frequency of its multiprocessors that was asked for; the driver takes the nearest that the GPU has."""
    refused: str | None
    """Why it was not locked, in the driver's words; None: it was."""
    kept: str | None
    """Why it is locked still, in the driver's words; None: it is not."""


class LockedClock:
    """Holds the clock of a GPU inside a `with`, and lets it go at its end, whatever happens there.

    It holds for all that the GPU does, for others too, and needs the rights of an administrator. The driver does not
    tell of an earlier lock: letting go ends that one as well.
    """

    def __init__(self, gpu: Gpu | None, mhz: int) -> None:
        """Nothing happens yet.

        Args:
            gpu: which one; None: there is none.
            mhz: the frequency.
        """
        self._gpu = gpu
        self._mhz = mhz
        self._refused: str | None = None
        self._kept: str | None = None

    @property
    def record(self) -> ClockLock:
        """What came of it."""
        return ClockLock(mhz=self._mhz, refused=self._refused, kept=self._kept)

    def __enter__(self) -> Self:
        try:
            self._refused = self._ask(f"--lock-gpu-clocks={self._mhz},{self._mhz}")
        except BaseException:  # Ctrl-C: perhaps it is locked by now
            self._ask(_LET_GO)
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        if self._refused is None:
            self._kept = self._ask(_LET_GO)

    def _ask(self, option: str) -> str | None:
        """None: done; else what nvidia-smi says."""
        tool = shutil.which("nvidia-smi")
        if self._gpu is None or not self._gpu.uuid or tool is None:
            return "no NVIDIA GPU is known here" if tool else "there is no nvidia-smi here"
        try:
            done = subprocess.run(
                [tool, f"--id={self._gpu.uuid}", option], capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return make_legible(str(error))
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        return None if done.returncode == 0 else make_legible(lines[0] if lines else f"exit code {done.returncode}")
