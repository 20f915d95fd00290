"""Streams, events, memory and CUDA graphs of a simulated GPU, for tests of the order of work.

What is queued runs as late as CUDA allows: when the host waits for it, and then that alone and what it waits for
itself. Until then whatever it writes holds poison. Beside that each access to a piece of memory is checked against the
accesses before it: of two that touch the same, one of them writing, one must be ordered behind the other by streams,
events or the host. Vector clocks tell: a work's clock has, for each stream, how many of its works are surely done.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch

Clock = dict[int, int]


class RaceError(AssertionError):
    """Two works touch the same memory, and nothing orders them."""


@dataclass(eq=False)
class Work:
    """Something queued on a stream."""

    stream: Stream
    number: int
    name: str
    run: Callable[[], object]
    behind: list[Work]
    clock: Clock
    done: bool = False

    def surely_before(self, clock: Clock) -> bool:
        return clock.get(self.stream.cuda_stream, 0) >= self.number

    def __str__(self) -> str:
        return f"{self.name} on stream {self.stream.cuda_stream}"


@dataclass(eq=False)
class Memory:
    """A block that torch's allocator gave; `stream`: that it was taken on, None: pinned memory of the host.

    `owner`: it is no allocator's but this thing's, which must not go before all that uses it is done.
    """

    gpu: Gpu
    size: int
    stream: Stream | None
    kept: torch.Tensor | None = None
    owner: str = ""
    written: Work | None = None
    read: list[Work] = field(default_factory=list)
    users: set[Stream] = field(default_factory=set)

    @property
    def works(self) -> list[Work]:
        return [work for work in (self.written, *self.read) if work is not None]

    def touch(self, work: Work, *, writes: bool) -> None:
        for earlier in self.works if writes else self.works[: self.written is not None]:
            if not earlier.surely_before(work.clock):
                self.gpu.blame(f"{work} touches what {earlier} may not be done with")
        self.written, self.read = (work, []) if writes else (self.written, [*self.read, work])

    def touch_by_host(self) -> None:
        for work in self.works:
            if not work.surely_before(self.gpu.host_clock):
                self.gpu.blame(f"the host touches pinned memory that {work} may not be done with")

    def __del__(self) -> None:
        """The allocator gives it to its own stream's next work, once the streams that were recorded are done."""
        self.gpu.taken -= self.size
        clock = dict(self.gpu.host_clock)
        for stream in {self.stream, *self.users} - {None}:
            merge(clock, stream.clock)  # type: ignore[union-attr]
        late = [work for work in self.works if not work.surely_before(clock)]
        if late and (self.stream is not None or self.owner):
            self.gpu.faults.append(f"{self.owner or 'memory'} is given away before {late[0]} is done")


class Gpu:
    """All GPUs of a simulated machine: `torch.cuda` as far as sr-deploy uses it (`torch_cuda`)."""

    def __init__(self, devices: int = 2, capacity: int = 2**40) -> None:
        self.lock = threading.RLock()
        self.faults: list[str] = []
        self.devices = devices
        self.capacity = capacity
        self.taken = 0
        self.streams: dict[int, Stream] = {}
        self.capturing: CudaGraph | None = None
        self.names: list[str] = []
        self._held: list[tuple[torch.Tensor, weakref.ref[Memory]]] = []
        self._thread = threading.local()
        self._default = [Stream(self, torch.device("cuda", index)) for index in range(devices)]

    def blame(self, fault: str) -> NoReturn:
        self.faults.append(fault)
        raise RaceError(fault)

    def hold(self, host: torch.Tensor, memory: Memory) -> None:
        """Never give its address to another tensor, so that an address tells what lies there, or lay."""
        self._held.append((host, weakref.ref(memory)))

    def look_up(self, address: int, shape: Iterable[int], dtype: torch.dtype) -> tuple[torch.Tensor, Memory]:
        """What lies at an address, as one who has nothing else sees it."""
        for host, reference in self._held:
            storage = host.untyped_storage()
            place = address - storage.data_ptr()
            if 0 <= place < max(storage.nbytes(), 1):
                memory = reference()
                if memory is None:
                    break
                like = torch.empty(0, dtype=dtype)
                return like.set_(storage, place // dtype.itemsize, tuple(shape)), memory  # type: ignore[call-overload]
        self.blame(f"there is no memory of torch's at {address}, or no more")

    def finish(self) -> None:
        """Let all be done that was queued, and refuse what was found."""
        self.synchronize()
        assert not self.faults, "; ".join(self.faults)

    @property
    def host_clock(self) -> Clock:
        """What this thread has waited for."""
        return self._thread.__dict__.setdefault("clock", {})

    @property
    def _places(self) -> dict[Any, Any]:
        return self._thread.__dict__.setdefault("places", {"device": 0})

    def current_stream(self, device: Any = None) -> Stream:
        index = self.index_of(device)
        stream: Stream = self._places.get(index, self._default[index])
        return stream

    def index_of(self, device: Any) -> int:
        """Number of a device; None: the thread's own."""
        if isinstance(device, int):
            return device
        index = None if device is None else torch.device(device).index
        return int(self._places["device"] if index is None else index)

    def set_stream(self, stream: Stream) -> None:
        self._places["device"] = stream.device.index
        self._places[stream.device.index] = stream

    @contextmanager
    def device(self, device: Any) -> Iterator[None]:
        before = self._places["device"]
        self._places["device"] = self.index_of(device)
        try:
            yield
        finally:
            self._places["device"] = before

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, there = self.current_stream(), self.current_stream(stream.device)
        self.set_stream(stream)
        try:
            yield
        finally:
            self.set_stream(there)
            self.set_stream(before)

    def synchronize(self, device: Any = None) -> None:
        del device
        with self.lock:
            for stream in list(self.streams.values()):
                stream.synchronize()

    def wait(self, work: Work) -> None:
        """The host waits for a work."""
        self.refuse_in_capture()
        with self.lock:
            self._run(work)
            merge(self.host_clock, work.clock)

    def _run(self, work: Work) -> None:
        while not work.done:
            first = work.stream.queue.popleft()
            for other in first.behind:
                self._run(other)
            first.run()
            first.done = True

    def refuse_in_capture(self) -> None:
        graph = self.capturing
        if graph is not None and (graph.thread == threading.get_ident() or graph.mode == "global"):
            graph.broken = True
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    @contextmanager
    def graph(
        self,
        cuda_graph: CudaGraph,
        pool: Memory | None = None,
        stream: Stream | None = None,
        capture_error_mode: str = "global",
    ) -> Iterator[None]:
        """As `torch.cuda.graph`: waits for the device first, and leaves its stream current where a capture breaks."""
        if self.capturing is not None:
            self.capturing.broken = True
        self.synchronize()
        stream = stream or Stream(self, torch.device("cuda", self.index_of(None)))
        before = self.current_stream()
        self.set_stream(stream)
        cuda_graph.begin(pool or self.graph_pool_handle(), capture_error_mode)
        self.capturing = stream.graph = cuda_graph
        try:
            yield
        finally:
            self.capturing = stream.graph = None
            if cuda_graph.broken:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
            self.set_stream(before)

    def graph_pool_handle(self) -> Memory:
        return Memory(self, 0, None)


class Stream:
    """As `torch.cuda.Stream`."""

    def __init__(self, gpu: Gpu, device: Any = None) -> None:
        self.gpu = gpu
        self.device = torch.device("cuda", gpu.index_of(device))
        self.cuda_stream = 4096 + len(gpu.streams)
        self.queue: deque[Work] = deque()
        self.clock: Clock = {}
        self.graph: CudaGraph | None = None
        self._behind: list[Work] = []
        gpu.streams[self.cuda_stream] = self

    def put(
        self, name: str, run: Callable[[], object], reads: Iterable[Memory] = (), writes: Iterable[Memory] = ()
    ) -> Work:
        """Queue something; while a graph is captured it is noted there and not queued."""
        with self.gpu.lock:
            if self.graph is not None:
                self.graph.add(name, run, reads, writes)
                return Work(self, 0, name, run, [], {}, done=True)
            merge(self.clock, self.gpu.host_clock)
            self.clock[self.cuda_stream] = number = self.clock.get(self.cuda_stream, 0) + 1
            work = Work(self, number, name, run, self._behind, dict(self.clock))
            self._behind = []
            self.queue.append(work)
            self.gpu.names.append(str(work))
            written = set(writes)
            for memory in set(reads) - written:
                memory.touch(work, writes=False)
            for memory in written:
                memory.touch(work, writes=True)
            return work

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event(self.gpu)
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        if event.work is None:
            return  # CUDA does not wait for what was never recorded
        if self.graph is not None:
            self.graph.broken = True
            raise RuntimeError("CUDA error: dependency created on uncaptured work in another stream")
        merge(self.clock, event.work.clock)
        self._behind.append(event.work)

    def wait_stream(self, stream: Stream) -> None:
        self.wait_event(stream.record_event())

    def synchronize(self) -> None:
        self.gpu.wait(self.put("wait", do_nothing))


class Event:
    """As `torch.cuda.Event`."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.work: Work | None = None

    def record(self, stream: Stream | None = None) -> None:
        self.work = (stream or self.gpu.current_stream()).put("event", do_nothing)

    def synchronize(self) -> None:
        if self.work is not None:
            self.gpu.wait(self.work)


class CudaGraph:
    """As `torch.cuda.CUDAGraph`. Graphs of one pool share memory: what is taken in a capture is all one `Memory`."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.broken = False
        self.owned: list[torch.Tensor] = []
        self._steps: list[Callable[[], object]] = []
        self._used: list[weakref.ref[Memory]] = []

    def begin(self, pool: Memory, mode: str) -> None:
        self.pool, self.mode, self.thread = pool, mode, threading.get_ident()
        self.sharing: list[CudaGraph] = pool.__dict__.setdefault("graphs", [])
        self.sharing.append(self)

    def add(self, name: str, run: Callable[[], object], reads: Iterable[Memory], writes: Iterable[Memory]) -> None:
        del name
        self._steps.append(run)
        self._used += [weakref.ref(memory) for memory in {*reads, *writes}]

    def replay(self) -> None:
        alive = [reference() for reference in self._used]
        if None in alive:
            self.gpu.blame("a graph uses memory that was given away")

        def run() -> None:
            for graph in self.sharing:
                if graph is not self:
                    for tensor in graph.owned:
                        poison(tensor)
            for step in self._steps:
                step()

        used = {memory for memory in alive if memory is not None}
        self.gpu.current_stream().put("replay", run, writes={*used, self.pool})


def do_nothing() -> None:
    """What an event does."""


def merge(clock: Clock, other: Clock) -> None:
    for handle, number in other.items():
        clock[handle] = max(clock.get(handle, 0), number)


def poison(tensor: torch.Tensor) -> None:
    """NaN in floats, 255 in bytes."""
    storage = tensor.untyped_storage()
    torch.empty(0, dtype=torch.uint8).set_(storage).fill_(255)  # type: ignore[call-overload]
