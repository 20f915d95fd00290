"""What all runners do the same: check the input, refuse when closed, name the backend in every failure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import BackendError, InputError, OutOfMemoryError, find_want_of_memory, first_line
from sr_deploy.runners.protocol import RunnerSpec, check_input_shape

_CPU_PIXELS = 1 << 15
"""Low-resolution pixels of a batch that are computed at once on a CPU. With more, feature maps outgrow its caches, and
beyond 32 MiB (64 channels of FP32: four times as many) glibc gets their pages from the kernel for each layer anew."""


class BaseRunner(ABC):
    """A runner but for the computing itself."""

    def __init__(self, spec: RunnerSpec, *, splits_batches: bool = False) -> None:
        """Take the settings.

        Args:
            spec: what the runner takes, gives and is.
            splits_batches: compute large batches in parts, which is faster and takes less memory on a CPU.
        """
        self._spec = spec
        self._splits_batches = splits_batches and not spec.profiles
        self._closed = False

    @property
    def spec(self) -> RunnerSpec:
        """What it takes, gives and is."""
        return self._spec

    def infer(self, lr: NDArray[np.float32]) -> NDArray[np.float32]:
        """Upscale a batch, as `protocol.Runner.infer` says.

        Raises:
            InputError: not a float32 array.
            ShapeError: a shape that this runner does not take.
            BackendError: closed, or the backend failed, or what it gave has another size than is due.
        """
        self._check_open()
        if not isinstance(lr, np.ndarray) or lr.dtype != np.float32:
            seen = lr.dtype if isinstance(lr, np.ndarray) else type(lr).__name__
            raise InputError(f"{self.spec} takes a float32 array in [0, 1], not {seen}; convert it first")
        check_input_shape(lr.shape, self.spec)
        n, channels, h, w = lr.shape
        count = max(1, _CPU_PIXELS // (h * w))
        if not self._splits_batches or n <= count:
            return self._infer_checked(lr)
        try:
            sr = np.empty((n, channels, h * self.spec.scale, w * self.spec.scale), np.float32)
        except MemoryError as error:
            raise inference_error(self.spec, lr.shape, error) from error
        for first in range(0, n, count):
            sr[first : first + count] = self._infer_checked(lr[first : first + count])
        return sr

    def _infer_checked(self, lr: NDArray[np.float32]) -> NDArray[np.float32]:
        sr = self._infer(np.ascontiguousarray(lr))
        n, channels, h, w = lr.shape
        due = (n, channels, h * self.spec.scale, w * self.spec.scale)
        if sr.shape != due:
            raise BackendError(
                f"{self.spec} gave {'x'.join(map(str, sr.shape))} for {'x'.join(map(str, lr.shape))} where "
                f"{'x'.join(map(str, due))} is due: {self.spec.artifact} is not of a x{self.spec.scale} network"
            )
        return sr

    def close(self) -> None:
        """Release what it holds; a closed runner cannot infer."""
        if not self._closed:
            self._closed = True
            self._release()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError(f"this {self.spec} runner is closed; open another with open_runner")

    @abstractmethod
    def _infer(self, lr_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute; the input was checked."""

    @abstractmethod
    def _release(self) -> None:
        """Drop the network and its memory."""


def require_cpu(backend: str, device: str | None) -> str:
    """`cpu`, for a backend that runs nowhere else here.

    Raises:
        BackendError: another device was asked for.
    """
    if device not in (None, "cpu"):
        raise BackendError(f"{backend} runs on the CPU here, not on {device!r}; leave the device out or give 'cpu'")
    return "cpu"


def inference_error(spec: RunnerSpec, lr_shape: Sequence[int], error: BaseException) -> BackendError:
    """What to raise for an exception of a backend's library: `OutOfMemoryError` if more memory would have helped."""
    said = find_want_of_memory(error)
    kind = BackendError if said is None else OutOfMemoryError
    return kind(f"{spec} failed on {'x'.join(map(str, lr_shape))}: {said or first_line(error)}")
