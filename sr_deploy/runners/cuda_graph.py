"""CUDA graphs: what is launched on a GPU for one shape is recorded once and launched as a whole from then on.

Thin, because only a GPU can run it.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch

from sr_deploy.errors import BackendError, OutOfMemoryError
from sr_deploy.runners.base import first_line

Compute = Callable[[torch.Tensor], torch.Tensor]
"""From a tensor on a GPU to another; all that it does is queued on the current stream."""

MOST_GRAPHS = 8
"""Shapes that are remembered: the batches of one window and of another."""

_LOG = logging.getLogger(__name__)
_CAPTURING = threading.Lock()
"""Held while a graph is captured: torch empties its caches and waits for the device first, which the capture of another
thread, on another GPU too, does not survive."""


class GraphReplay:
    """A `Compute` that replays CUDA graphs, one for each shape.

    The first call with a shape is computed as it is, for a shape that comes once is not worth a graph. The second one
    captures, and it and all others replay. Results are the caller's: a graph's own output, which the next replay
    overwrites, is copied. Where torch refuses to capture, the log says so once, and nothing is captured any more.
    """

    def __init__(
        self,
        compute: Compute,
        name: str,
        *,
        make_compute: Callable[[], Compute] | None = None,
        most: int = MOST_GRAPHS,
        capture: Callable[[Compute, torch.Tensor], Compute] | None = None,
    ) -> None:
        """Nothing is captured yet.

        Args:
            compute: what to do.
            name: of what computes, for the log.
            make_compute: gives a `compute` for each graph alone; None: they share one.
            most: shapes that are remembered; the one that was not used for longest is forgotten.
            capture: makes a replay of a `compute` for tensors like this one; None: a CUDA graph.
        """
        self._compute = compute
        self._name = name
        self._make_compute = make_compute or (lambda: compute)
        self._most = most
        self._capture = capture or _GraphMaker().capture
        self._known: OrderedDict[tuple[object, ...], Compute | None] = OrderedDict()
        self._refused = False

    def __call__(self, lr: torch.Tensor) -> torch.Tensor:
        """Compute, or replay.

        Raises:
            Exception: as `compute`; torch's error where there is no memory for a graph.
        """
        key = (*lr.shape, lr.dtype)
        seen = key in self._known
        replay = self._known.pop(key, None)
        self._known[key] = replay  # used last
        if len(self._known) > self._most:
            _wait_for(self._known.popitem(last=False)[1])
        if replay is None and seen and not self._refused:
            replay = self._known[key] = self._try_capture(lr)
        return (replay or self._compute)(lr)

    @property
    def captured(self) -> int:
        """Graphs that are kept."""
        return sum(replay is not None for replay in self._known.values())

    def clear(self) -> None:
        """Forget all shapes, and give back the memory of their graphs."""
        for replay in self._known.values():
            _wait_for(replay)
        self._known.clear()

    def _try_capture(self, lr: torch.Tensor) -> Compute | None:
        try:
            return self._capture(self._make_compute(), lr)
        except (torch.OutOfMemoryError, OutOfMemoryError):
            raise
        except (RuntimeError, BackendError) as error:
            self._refused = True
            _LOG.warning(
                "%s: no CUDA graph is captured (%s); kernels are launched one by one, which takes longer for small "
                "pictures",
                self._name,
                first_line(error),
            )
            return None


def _wait_for(replay: Compute | None) -> None:
    """What it launches must not go while it runs."""
    if isinstance(replay, _Graph):
        replay.taken.synchronize()


class _GraphMaker:
    """Captures graphs that share their memory, for they never run at the same time."""

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None  # torch wants one stream for all captures that share memory

    def capture(self, compute: Compute, lr: torch.Tensor) -> Compute:
        """Run once beside the current stream, to warm up, then record."""
        with torch.cuda.device(lr.device):
            current = torch.cuda.current_stream()
            if self._stream is None:
                self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
                self._pool = torch.cuda.graph_pool_handle()
                self._taken = torch.cuda.Event()  # type: ignore[no-untyped-call]
            static_lr = lr.clone()
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                compute(static_lr)
            current.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            with (
                _CAPTURING,
                torch.cuda.stream(self._stream),  # a capture that fails leaves its stream as the current one
                # Other threads go on: what they do (pinned memory, other GPUs) is no part of this graph.
                torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
            ):
                static_sr = compute(static_lr)
        return _Graph(graph, static_lr, static_sr, compute, self._taken)


@dataclass(frozen=True)
class _Graph:
    """Replays for tensors of one shape."""

    graph: torch.cuda.CUDAGraph
    lr: torch.Tensor
    sr: torch.Tensor
    compute: Compute
    """What was captured: what it launches must live as long."""
    taken: torch.cuda.Event
    """When the output of whichever graph ran last was copied: they share memory, and that one may be on another
    stream."""

    def __call__(self, lr: torch.Tensor) -> torch.Tensor:
        with torch.cuda.device(self.lr.device):
            current = torch.cuda.current_stream()
            current.wait_event(self.taken)
            self.lr.copy_(lr)
            self.graph.replay()
            sr = self.sr.clone()
            self.taken.record(current)
            return sr
