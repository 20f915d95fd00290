"""Tiles on a GPU: 8-bit samples go up, 8-bit samples come down; all between happens there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.imaging.opening import Pixels
from sr_deploy.runners.protocol import DeviceRunner, Runner
from sr_deploy.upscale.guards import Statistics
from sr_deploy.upscale.lanes import Lanes

if TYPE_CHECKING:
    import torch


def runs_on_device(runner: Runner, samples: Pixels) -> bool:
    """Whether a runner takes such samples on a GPU."""
    spec = runner.spec
    on_gpu = isinstance(runner, DeviceRunner) and spec.device.startswith("cuda")
    return on_gpu and samples.dtype == np.uint8 and spec.dtype in ("float32", "float16", "uint8")


def infer_on_device(runner: DeviceRunner, lanes: Lanes, windows: Sequence[Pixels]) -> list[DeviceResult]:
    """Upscale windows of one shape, each H x W x C of 8 bit, at once; returns before the GPU is done.

    Raises:
        BackendError: as the runner.
    """
    import torch

    spec = runner.spec
    lr = lanes.send(windows)
    with torch.cuda.stream(lanes.compute):
        if lr.shape[3] < spec.channels:
            lr = lr.expand(-1, -1, -1, spec.channels)
        if spec.dtype == "uint8":
            sr_NCHW = runner.infer_on_device(lr.contiguous()).permute(0, 3, 1, 2).float() / 255
        else:
            dtype = torch.float16 if spec.dtype == "float16" else torch.float32
            sr_NCHW = runner.infer_on_device((lr.permute(0, 3, 1, 2).float() / 255).to(dtype).contiguous())
    ready = lanes.mark()
    return [DeviceResult(sr_NCHW[index : index + 1], lanes, ready) for index in range(len(windows))]


class DeviceResult:
    """A result in a GPU's memory, perhaps not computed yet. Its readers wait for it, not for what is queued after."""

    def __init__(self, sr_NCHW: torch.Tensor, lanes: Lanes, ready: torch.cuda.Event | None = None) -> None:
        """`ready`: when it is there; None: it is."""
        self._sr_NCHW = sr_NCHW
        self._lanes = lanes
        self._ready = ready

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self._sr_NCHW.shape[2], self._sr_NCHW.shape[3]

    def crop(self, rows: slice, columns: slice) -> DeviceResult:
        """A part of it, a view."""
        return DeviceResult(self._sr_NCHW[:, :, rows, columns], self._lanes, self._ready)

    def measure(self, scale: int) -> Statistics:
        """What the guards look at."""
        import torch

        with self._lanes.after(self._ready):
            planes = self._sr_NCHW[0].float()
            rows, columns = (self._lanes.weights(length, scale) for length in planes.shape[1:])
            means = rows @ (planes @ columns.T)
            low, high = planes.amin(dim=(1, 2)), planes.amax(dim=(1, 2))
            told = torch.cat([low, high, means.flatten()])
            values = np.empty(told.numel(), np.float32)
            self._lanes.fetch(told, values)
        channels = len(low)
        return Statistics(
            low=values[:channels],
            high=values[channels : 2 * channels],
            means=values[2 * channels :].reshape(means.shape),
        )

    def read(self) -> NDArray[np.float32]:
        """1 x C x H x W on the host, not clamped."""
        with self._lanes.after(self._ready):
            sr_NCHW = np.empty(self._sr_NCHW.shape, np.float32)
            self._lanes.fetch(self._sr_NCHW.float().contiguous(), sr_NCHW)
            return sr_NCHW

    def write(self, target: Pixels) -> None:
        """Clamp, scale, round to 8 bit, and only then come down."""
        import torch

        with self._lanes.after(self._ready):
            planes = self._sr_NCHW[0].float()
            if target.shape[2] < planes.shape[0]:
                planes = planes.mean(dim=0, keepdim=True)
            whole = planes.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0)
            self._lanes.fetch(whole.contiguous(), target)
