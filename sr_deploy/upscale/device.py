"""Tiles on a GPU: 8-bit samples go up, 8-bit samples come down; all between happens there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.imaging.opening import Pixels
from sr_deploy.runners.protocol import DeviceRunner, Runner
from sr_deploy.upscale.guards import Statistics, cell_weights

if TYPE_CHECKING:
    import torch


def runs_on_device(runner: Runner, samples: Pixels) -> bool:
    """Whether a runner takes such samples on a GPU."""
    spec = runner.spec
    on_gpu = isinstance(runner, DeviceRunner) and spec.device.startswith("cuda")
    return on_gpu and samples.dtype == np.uint8 and spec.dtype in ("float32", "float16", "uint8")


def infer_on_device(runner: DeviceRunner, samples: Pixels) -> DeviceResult:
    """Upscale H x W x C samples of 8 bit; returns before the GPU is done.

    Raises:
        BackendError: as the runner.
    """
    import torch

    spec = runner.spec
    lr = torch.from_numpy(np.ascontiguousarray(samples)).to(spec.device, non_blocking=True)[None]
    if lr.shape[3] < spec.channels:
        lr = lr.expand(-1, -1, -1, spec.channels)
    if spec.dtype == "uint8":
        sr_NCHW = runner.infer_on_device(lr.contiguous()).permute(0, 3, 1, 2).float() / 255
    else:
        dtype = torch.float16 if spec.dtype == "float16" else torch.float32
        sr_NCHW = runner.infer_on_device((lr.permute(0, 3, 1, 2).float() / 255).to(dtype).contiguous())
    return DeviceResult(sr_NCHW)


class DeviceResult:
    """A result in a GPU's memory, perhaps not computed yet. Its readers wait for it, not for what is queued after."""

    def __init__(self, sr_NCHW: torch.Tensor, ready: torch.cuda.Event | None = None) -> None:
        """`ready`: when it is; None: once all that is queued now is done."""
        import torch

        self._sr_NCHW = sr_NCHW
        self._ready = ready
        if ready is None and sr_NCHW.is_cuda:
            self._ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._ready.record(torch.cuda.current_stream(sr_NCHW.device))  # of its GPU, not of the thread's

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self._sr_NCHW.shape[2], self._sr_NCHW.shape[3]

    def crop(self, rows: slice, columns: slice) -> DeviceResult:
        """A part of it, a view."""
        return DeviceResult(self._sr_NCHW[:, :, rows, columns], self._ready)

    def measure(self, scale: int) -> Statistics:
        """What the guards look at."""
        with self._after():
            planes = self._sr_NCHW[0].float()
            rows, columns = (
                planes.new_tensor(cell_weights(length, scale)) for length in (planes.shape[1], planes.shape[2])
            )
            means = rows @ (planes @ columns.T)
            low, high = planes.amin(dim=(1, 2)), planes.amax(dim=(1, 2))
            return Statistics(*(tensor.cpu().numpy() for tensor in (low, high, means)))

    def read(self) -> NDArray[np.float32]:
        """1 x C x H x W on the host, not clamped."""
        with self._after():
            sr_NCHW: NDArray[np.float32] = self._sr_NCHW.float().cpu().numpy()
            return sr_NCHW

    def write(self, target: Pixels) -> None:
        """Clamp, scale, round to 8 bit, and only then come down."""
        import torch

        with self._after():
            planes = self._sr_NCHW[0].float()
            if target.shape[2] < planes.shape[0]:
                planes = planes.mean(dim=0, keepdim=True)
            whole = planes.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0)
            target[:] = whole.contiguous().cpu().numpy()

    def _after(self) -> torch.cuda.StreamContext:
        """A stream of its own that waits for the result; what runs in it ends with a copy to the host."""
        import torch

        if self._ready is None:
            return torch.cuda.stream(None)
        side = torch.cuda.Stream(self._sr_NCHW.device)  # type: ignore[no-untyped-call]
        side.wait_event(self._ready)
        return torch.cuda.stream(side)
