"""Tiles on a GPU: 8-bit samples are uploaded and 8-bit samples are downloaded; everything between stays on the GPU.

What orders the work, as the tests check on a simulated GPU (tests/unit/gpu):

- Three CUDA streams. `upload` copies windows to the GPU, `compute` runs the network, `download` measures, rounds and
  copies results to the host. Within a stream work is done in the order in which it was queued.
- `compute` waits for what `upload` has been given so far: the copy of its batch. `download` waits for the event behind
  the batch of the result that is read, not for later batches. The host waits for `download` before it reads a copy.
- On the GPU the input belongs to `upload` and is read by `compute`, which `record_stream` tells torch's allocator. A
  result is read on `download` alone, and its readers return when `download` is done: it may be dropped at any time.
  Weights of the guards' cells are made and read on `download`.
- Pinned memory is torch's: its allocator hands none out again before the copies from and to it are done. The host
  writes it before its copy is queued, and reads it after `download` was waited for.
- One thread starts batches, and one, which may be another, reads results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sr_deploy.imaging.opening import Pixels
from sr_deploy.runners.protocol import DeviceRunner
from sr_deploy.upscale.guards import Statistics, cell_weights


class DevicePipeline:
    """A runner on a GPU, with uploads and downloads that overlap its work."""

    def __init__(self, runner: DeviceRunner) -> None:
        """`runner`: stays the caller's; what loaded its weights was queued on this thread's current stream."""
        self._runner = runner
        self._device = torch.device(runner.spec.device)
        self._upload, self._compute, self._download = (torch.cuda.Stream(self._device) for _ in range(3))  # type: ignore[no-untyped-call]
        self._weights: dict[tuple[int, int], torch.Tensor] = {}
        self._compute.wait_stream(torch.cuda.current_stream(self._device))

    def start(self, windows: Sequence[Pixels]) -> list[DeviceResult]:
        """Upscale windows of one shape, each H x W x C of 8 bit, at once; returns before the GPU is done.

        Raises:
            BackendError: as the runner.
        """
        staged = torch.empty((len(windows), *windows[0].shape), dtype=torch.uint8, pin_memory=True)
        np.stack(windows, out=staged.numpy())
        with torch.cuda.stream(self._upload):
            lr = staged.to(self._device, non_blocking=True)
        lr.record_stream(self._compute)
        self._compute.wait_stream(self._upload)
        with torch.cuda.stream(self._compute):
            sr_NCHW = self._infer(lr)
            ready = self._compute.record_event()
        return [DeviceResult(sr_NCHW[index : index + 1], self, ready) for index in range(len(windows))]

    def fetch(self, ready: torch.cuda.Event, compute: Callable[[], torch.Tensor]) -> NDArray[np.generic]:
        """The result of `compute`, queued on the download stream behind `ready`, in host memory; waits for it.

        One thread at a time.
        """
        self._download.wait_event(ready)
        with torch.cuda.stream(self._download):
            made = compute()
            fetched = torch.empty(made.shape, dtype=made.dtype, pin_memory=True)
            fetched.copy_(made, non_blocking=True)
        self._download.synchronize()
        array: NDArray[np.generic] = fetched.numpy()
        return array

    def cell_weights(self, length: int, scale: int) -> torch.Tensor:
        """`guards.cell_weights` on the GPU, for work on the download stream."""
        key = (length, scale)
        if key not in self._weights:
            self._weights[key] = torch.from_numpy(cell_weights(length, scale)).to(self._device)
        return self._weights[key]

    def _infer(self, lr: torch.Tensor) -> torch.Tensor:
        """N x C x H x W from N x H x W x C of 8 bit."""
        spec = self._runner.spec
        if lr.shape[3] < spec.channels:
            lr = lr.expand(-1, -1, -1, spec.channels)
        if spec.dtype == "uint8":
            return self._runner.infer_on_device(lr.contiguous()).permute(0, 3, 1, 2).float() / 255
        lr_NCHW = lr.permute(0, 3, 1, 2).float() / 255
        return self._runner.infer_on_device(lr_NCHW.to(getattr(torch, spec.dtype)).contiguous())


class DeviceResult:
    """A result in a GPU's memory, perhaps not computed yet. Its readers wait for it, not for what is queued after."""

    def __init__(self, sr_NCHW: torch.Tensor, pipeline: DevicePipeline, ready: torch.cuda.Event) -> None:
        """`ready`: recorded behind what computes it."""
        self._sr_NCHW = sr_NCHW
        self._pipeline = pipeline
        self._ready = ready

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self._sr_NCHW.shape[2], self._sr_NCHW.shape[3]

    def crop(self, rows: slice, columns: slice) -> DeviceResult:
        """A part of it, a view."""
        return DeviceResult(self._sr_NCHW[:, :, rows, columns], self._pipeline, self._ready)

    def measure(self, scale: int) -> Statistics:
        """The statistics of the guards, downloaded as one row of numbers."""

        def compute() -> torch.Tensor:
            planes = self._sr_NCHW[0].float()
            rows, columns = (self._pipeline.cell_weights(length, scale) for length in planes.shape[1:])
            means = rows @ (planes @ columns.T)
            cells[:] = means.shape
            return torch.cat([planes.amin(dim=(1, 2)), planes.amax(dim=(1, 2)), means.flatten()])

        cells: list[int] = []
        values = self._pipeline.fetch(self._ready, compute).astype(np.float32, copy=False)
        channels = cells[0]
        return Statistics(
            low=values[:channels], high=values[channels : 2 * channels], means=values[2 * channels :].reshape(cells)
        )

    def read(self) -> NDArray[np.float32]:
        """1 x C x H x W on the host, not clamped."""
        fetched = self._pipeline.fetch(self._ready, self._sr_NCHW.float)
        return fetched.astype(np.float32, copy=False)

    def write(self, target: Pixels) -> None:
        """Clamp, scale and round to 8 bit on the GPU, then download."""

        def compute() -> torch.Tensor:
            planes = self._sr_NCHW[0].float()
            if target.shape[2] < planes.shape[0]:
                planes = planes.mean(dim=0, keepdim=True)
            return planes.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous()

        np.copyto(target, self._pipeline.fetch(self._ready, compute))
