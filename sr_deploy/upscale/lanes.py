"""The ways up to a GPU and down from it: streams for copies beside the one that computes, and pinned memory for them.

Copies overlap with work only where they are queued on other streams and the host's memory is pinned. Without a GPU the
same code runs on torch's CPU tensors, on which nothing is queued.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.imaging.opening import Pixels
from sr_deploy.upscale.guards import cell_weights

if TYPE_CHECKING:
    import torch

SLOTS = 3
"""Pinned buffers on the way up: one that is filled, one that is copied, one to spare. Down, what comes is read at once:
one is enough."""


class Ring:
    """Host buffers that are used in turn; each is waited for until the copy that last used it is done."""

    def __init__(self, slots: int, *, pinned: bool) -> None:
        """`pinned`: memory that a GPU can copy beside its work."""
        self._pinned = pinned
        self._buffers: list[torch.Tensor | None] = [None] * slots
        self._busy: list[torch.cuda.Event | None] = [None] * slots
        self._next = 0

    def take(self, shape: Sequence[int], dtype: torch.dtype, done: torch.cuda.Event | None) -> torch.Tensor:
        """The next buffer, of that shape and type.

        Args:
            shape: of what is copied.
            dtype: of its numbers.
            done: will be recorded behind the copy; None: it is done at once.
        """
        import torch

        slot, self._next = self._next, (self._next + 1) % len(self._buffers)
        busy, buffer = self._busy[slot], self._buffers[slot]
        if busy is not None:
            busy.synchronize()
        size = int(np.prod(shape)) * dtype.itemsize
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[slot] = torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned)
        self._busy[slot] = done
        return buffer[:size].view(dtype).view(*shape)


class Lanes:
    """Three streams of one device: samples go up on one, one computes, results come down on the third.

    One thread sends up, and one (it may be another) fetches.
    """

    def __init__(self, device: str) -> None:
        """`device`: as in `cuda:0`; on `cpu` everything is done at once."""
        import torch

        self.device = torch.device(device)
        self._on_gpu = self.device.type == "cuda"
        self._up, self.compute, self._down = (self._make_stream() for _ in range(3))
        self._rising, self._falling = (Ring(slots, pinned=self._on_gpu) for slots in (SLOTS, 1))
        self._weights: dict[tuple[int, int], torch.Tensor] = {}
        self._fetching = threading.Lock()
        if self.compute is not None:
            self.compute.wait_stream(torch.cuda.current_stream(self.device))  # which loaded the weights

    def send(self, windows: Sequence[Pixels]) -> torch.Tensor:
        """N x H x W x C on the device, for work on the stream `compute`; returns before it is there."""
        import torch

        done = self._make_event()
        staged = self._rising.take((len(windows), *windows[0].shape), torch.uint8, done)
        for index, samples in enumerate(windows):
            np.copyto(staged[index].numpy(), samples)
        with torch.cuda.stream(self._up):
            sent = staged.to(self.device, non_blocking=True, copy=True)
        if done is not None and self._up is not None and self.compute is not None:
            done.record(self._up)
            self.compute.wait_event(done)
            sent.record_stream(self.compute)  # it was taken on `_up`, which is done with it before `compute` is
        return sent

    def mark(self) -> torch.cuda.Event | None:
        """Recorded behind what `compute` has to do now."""
        ready = self._make_event()
        if ready is not None and self.compute is not None:
            ready.record(self.compute)
        return ready

    def after(self, ready: torch.cuda.Event | None) -> torch.cuda.StreamContext:
        """Queue on the way down, behind `ready`."""
        import torch

        if ready is not None and self._down is not None:
            self._down.wait_event(ready)
        return torch.cuda.stream(self._down)

    def fetch(self, tensor: torch.Tensor, target: NDArray[np.generic]) -> None:
        """Copy what the way down has made, a contiguous tensor, into host memory; returns when it is there."""
        import torch

        with self._fetching:
            if tensor.device.type != "cuda":
                np.copyto(target, tensor.numpy())
                return
            done = self._make_event()
            staged = self._falling.take(tensor.shape, tensor.dtype, done)
            staged.copy_(tensor, non_blocking=True)
            if done is not None:
                done.record(torch.cuda.current_stream(self.device))
                done.synchronize()  # what was taken on other streams is done with, too
            np.copyto(target, staged.numpy())

    def weights(self, length: int, scale: int) -> torch.Tensor:
        """`cell_weights` on the device."""
        import torch

        key = (length, scale)
        if key not in self._weights:
            host = torch.from_numpy(cell_weights(length, scale))
            self._weights[key] = (host.pin_memory() if self._on_gpu else host).to(self.device, non_blocking=True)
        return self._weights[key]

    def _make_stream(self) -> torch.cuda.Stream | None:
        import torch

        return torch.cuda.Stream(self.device) if self._on_gpu else None  # type: ignore[no-untyped-call]

    def _make_event(self) -> torch.cuda.Event | None:
        import torch

        return torch.cuda.Event() if self._on_gpu else None  # type: ignore[no-untyped-call]
