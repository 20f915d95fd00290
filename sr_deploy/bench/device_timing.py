"""Calls on a GPU: CUDA events beside the host's clock, one call at a time and several in flight, and pinned copies.

Warm-up and length are those of NVIDIA's trtexec: at least 200 ms, then at least 3 s and 10 calls. Every operation of
the GPU goes through `Device` and `Event`, so the arithmetic is tested on a simulated one with a clock of its own. The
real one, `CudaDevice`, is thin, because only a GPU can run it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np

from sr_deploy.bench.statistics import Schedule, is_warm
from sr_deploy.imaging.opening import Pixels
from sr_deploy.measure.timer import resting_collector

if TYPE_CHECKING:
    import torch

WARM_UP_SECONDS = 0.2
LEAST_SECONDS = 3.0
LEAST_CALLS = 10
IN_FLIGHT = 3
"""Calls that the GPU has at a time when it is kept busy: as many batches as `upscale` hands it."""
_COPIES = 20


class Event(Protocol):
    """A moment in the work of a GPU."""

    def record(self) -> None:
        """Let it be when all is done that is queued now; returns at once."""
        ...

    def wait(self) -> None:
        """Let the host wait until then."""
        ...

    def seconds_since(self, earlier: Self) -> float:
        """On the GPU's clock; both moments must have been."""
        ...


class Device(Protocol):
    """A GPU, with the stream that calls are queued on."""

    def now(self) -> float:
        """Seconds on the host's clock."""
        ...

    def make_event(self) -> Event:
        """One that is not recorded yet."""
        ...


class CudaDevice:
    """A GPU of torch, with the stream that is current there when this is made."""

    def __init__(self, device: str) -> None:
        """`device`: as in `cuda:0`."""
        import torch

        self._stream = torch.cuda.current_stream(device)

    def now(self) -> float:
        """Seconds on the host's clock, which never steps back."""
        return time.perf_counter()

    def make_event(self) -> _CudaEvent:
        """A CUDA event that takes the time."""
        return _CudaEvent(self._stream)


class _CudaEvent:
    def __init__(self, stream: torch.cuda.Stream) -> None:
        import torch

        self._event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._stream = stream

    def record(self) -> None:
        self._event.record(self._stream)

    def wait(self) -> None:
        self._event.synchronize()

    def seconds_since(self, earlier: Self) -> float:
        return float(earlier._event.elapsed_time(self._event)) / 1e3  # in ms


class _Sample(NamedTuple):
    """One call, in seconds."""

    host: float
    """From before it is queued until the host knows that it is done."""
    device: float
    """Between an event before the call and one behind it."""
    enqueue: float
    """Until the call returned, which is when its work is queued."""


class DeviceTimer:
    """Times a call that queues work on a GPU and returns."""

    def __init__(self, device: Device, call: Callable[[], object]) -> None:
        """Of this call on that GPU."""
        self._device = device
        self._call = call
        self.device_seconds: list[float] = []
        """Of each call of all turns, by the GPU's events."""
        self.enqueue_seconds: list[float] = []
        """What the host took to queue each of them."""

    def warm_up(self, budget: float) -> list[float]:
        """Call until 200 ms are over and calls are steady, or until the budget is spent; the host's seconds of each."""
        start, end = self._device.make_event(), self._device.make_event()
        times: list[float] = []
        while not is_warm(times, budget, WARM_UP_SECONDS):
            times.append(self._time_one(start, end).host)
        return times

    def time_turn(self, calls: int, primed: bool) -> list[float]:
        """Time `calls` calls, each alone on the GPU: the host's seconds of each; one more goes before if `primed`."""
        start, end = self._device.make_event(), self._device.make_event()
        with resting_collector():
            if primed:
                self._time_one(start, end)
            samples = [self._time_one(start, end) for _ in range(calls)]
        self.device_seconds += [one.device for one in samples]
        self.enqueue_seconds += [one.enqueue for one in samples]
        return [one.host for one in samples]

    def time_pipelined(self, calls: int) -> list[float]:
        """Time `calls` calls while `IN_FLIGHT` of them are in flight; for each the mean of all.

        The clock runs from when the first call is done, with others queued behind it, until `calls` more are done: time
        to fill the queue and to drain it is not part of it.
        """
        events = [self._device.make_event() for _ in range(IN_FLIGHT)]
        with resting_collector():
            for event in events:
                self._queue(event)
            events[0].wait()
            began = self._device.now()
            for done in range(1, calls + 1):
                self._queue(events[(done - 1) % IN_FLIGHT])  # the event that was waited for last
                events[done % IN_FLIGHT].wait()  # the oldest
            taken = self._device.now() - began
            for event in events:
                event.wait()
        return [taken / calls] * calls

    def _queue(self, event: Event) -> None:
        self._call()
        event.record()

    def _time_one(self, start: Event, end: Event) -> _Sample:
        start.record()
        began = self._device.now()
        self._call()
        queued = self._device.now()
        end.record()
        end.wait()
        done = self._device.now()
        return _Sample(done - began, end.seconds_since(start), queued - began)


def lengthen_schedule(schedule: Schedule, call_seconds: Sequence[float], on_gpu: Sequence[bool]) -> Schedule:
    """The same rounds, with so many calls of candidates on a GPU that they last 3 s and are 10; others as they were.

    Args:
        schedule: as it is without a GPU.
        call_seconds: what one call of each candidate takes.
        on_gpu: of each candidate.
    """
    calls = tuple(
        max(n, ceil(LEAST_SECONDS / seconds / schedule.rounds), ceil(LEAST_CALLS / schedule.rounds)) if gpu else n
        for n, seconds, gpu in zip(schedule.calls, call_seconds, on_gpu, strict=True)
    )
    return replace(schedule, calls=calls, least_seconds=tuple(LEAST_SECONDS if gpu else 0.0 for gpu in on_gpu))


class PinnedCopies:
    """8-bit samples up and 8-bit samples down, through pinned memory, as `upscale` moves them."""

    def __init__(self, samples: Pixels, result: Pixels, device: str) -> None:
        """`samples` go up, `result` (which is brought to the GPU here) comes down; `device`: as in `cuda:0`."""
        import torch

        self._samples = samples
        self._device = device
        pinned = device != "cpu"
        self._upload, self._download = (
            torch.empty(one.shape, dtype=torch.uint8, pin_memory=pinned) for one in (samples, result)
        )
        self._result = torch.from_numpy(result).to(device)
        self.sent = torch.empty(0)
        """What came up last."""
        self.fetched = np.empty_like(result)
        """What came down last."""

    @property
    def bytes(self) -> int:
        """Up and down together."""
        return self._samples.nbytes + self.fetched.nbytes

    def time(self, device: Device, times: int = _COPIES) -> tuple[float, float]:
        """Medians in seconds: with the way through the pinned memory, and of the two transfers by events alone."""
        start, end = device.make_event(), device.make_event()
        samples = [self._time_one(device, start, end) for _ in range(times + 1)][1:]  # the first only warms up
        host, transfers = zip(*samples, strict=True)
        return statistics.median(host), statistics.median(transfers)

    def _time_one(self, device: Device, start: Event, end: Event) -> tuple[float, float]:
        began = device.now()
        np.copyto(self._upload.numpy(), self._samples)
        start.record()
        self.sent = self._upload.to(self._device, non_blocking=True, copy=True)
        self._download.copy_(self._result, non_blocking=True)
        end.record()
        end.wait()
        np.copyto(self.fetched, self._download.numpy())
        return device.now() - began, end.seconds_since(start)
