"""CUDA graphs: what is launched on a GPU for one shape is recorded once and launched as a whole from then on.

Why it is right, which tests hold on a simulated GPU (tests/unit/gpu):

- All of a `GraphReplay` runs on one stream, its own: what is computed as it is, captures and replays. So graphs, and
  what they were captured of, may share memory: one of them uses it at a time.
- That stream waits for the caller's before each call, and the caller's for it behind the call. So an input of the
  caller's stream may be dropped when the call returns. A result belongs to the own stream and is read on the caller's,
  which `record_stream` tells torch's allocator: it may be dropped at any time.
- A graph has addresses in it: of an input of its own, which each call copies into, of its output, and of what was
  captured. `_Graph` keeps all of them; it is dropped after the stream was waited for.
- A result is a copy, for the next replay of any of the graphs overwrites what they share.
- One capture at a time in a process: torch waits for the device and empties its caches first, which the capture of
  another thread, on another GPU too, does not survive.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch

from sr_deploy.errors import BackendError, OutOfMemoryError, first_line
from sr_deploy.legible import show_value

Compute = Callable[[torch.Tensor], torch.Tensor]
"""From a tensor on a GPU to another; all that it does is queued on the current stream."""

MAX_GRAPHS = 8
"""Shapes that are remembered: the batches of one window and of another."""

_LOG = logging.getLogger(__name__)
_CAPTURING = threading.Lock()


def why_no_cuda() -> str | None:
    """Why torch runs on no GPU here, for messages; None: it does."""
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return f"torch sees no GPU with CUDA_VISIBLE_DEVICES={show_value(os.environ['CUDA_VISIBLE_DEVICES'])}"
    return "this machine has no NVIDIA GPU with a driver that works"


class GraphReplay:
    """A `Compute` that replays CUDA graphs, one for each shape.

    The first call with a shape is computed as it is, for a shape that comes once is not worth a graph. The second one
    captures, and it and all others replay. Where torch refuses to capture, the log says so once, and nothing is
    captured any more. After a call that failed all shapes are forgotten and torch's cached memory is given back.
    """

    def __init__(
        self,
        compute: Compute,
        name: str,
        device: torch.device,
        *,
        make_compute: Callable[[], Compute] | None = None,
        max_graphs: int = MAX_GRAPHS,
    ) -> None:
        """Nothing is captured yet.

        Args:
            compute: what to do.
            name: of what computes, for the log.
            device: a GPU, with its number.
            make_compute: gives a `compute` for each graph alone; None: they share one.
            max_graphs: shapes that are remembered; the one that was not used for longest is forgotten. 0: nothing is
                captured.
        """
        self._compute = compute
        self._name = name
        self._device = device
        self._make_compute = make_compute or (lambda: compute)
        self._max_graphs = max_graphs
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._known: OrderedDict[tuple[object, ...], _Graph | None] = OrderedDict()
        self._refused = False

    def __call__(self, lr: torch.Tensor) -> torch.Tensor:
        """Compute, or replay.

        Raises:
            Exception: as `compute`; torch's error where there is no memory for a graph.
        """
        caller = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(caller)
        try:
            with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
                sr = (self._find_graph(lr) or self._compute)(lr)
        except (RuntimeError, MemoryError, OutOfMemoryError):
            self.clear()
            torch.cuda.empty_cache()  # what is cached is of other shapes than the next one
            raise
        sr.record_stream(caller)
        caller.wait_stream(self._stream)
        return sr

    @property
    def captured(self) -> int:
        """Graphs that are kept."""
        return sum(graph is not None for graph in self._known.values())

    def clear(self) -> None:
        """Wait for all that was queued, and forget all shapes with the memory of their graphs."""
        self._stream.synchronize()
        self._known.clear()

    def _find_graph(self, lr: torch.Tensor) -> _Graph | None:
        key = (*lr.shape, lr.dtype)
        seen = key in self._known
        graph = self._known.pop(key, None)
        if graph is None and seen and not self._refused:
            graph = self._capture(lr)
        self._known[key] = graph  # used last
        if len(self._known) > self._max_graphs:
            self._stream.synchronize()
            self._known.popitem(last=False)
        return graph

    def _capture(self, lr: torch.Tensor) -> _Graph | None:
        """Run once, to warm up, then record."""
        try:
            compute, own_lr, graph = self._make_compute(), lr.clone(), torch.cuda.CUDAGraph()
            compute(own_lr)
            # What other threads do (pinned memory, other GPUs) is not part of this graph.
            with (
                _CAPTURING,
                torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
            ):
                own_sr = compute(own_lr)
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
        return _Graph(graph, own_lr, own_sr, compute)


@dataclass(frozen=True)
class _Graph:
    """Replays for tensors of one shape."""

    graph: torch.cuda.CUDAGraph
    lr: torch.Tensor
    sr: torch.Tensor
    compute: Compute
    """What was captured: what it launches must live as long."""

    def __call__(self, lr: torch.Tensor) -> torch.Tensor:
        self.lr.copy_(lr)
        self.graph.replay()
        return self.sr.clone()
