"""torch on a simulated GPU: tensors that say that they are on `cuda:0`, and lie in the host's memory.

`torch_cuda` puts it where `torch.cuda` was. The code that is tested is the real one, all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from tests.unit.gpu.streams import CudaGraph, Event, Gpu, Memory, Stream, do_nothing, merge, poison

aten = torch.ops.aten
_ALSO_VIEWS = (aten.detach.default, aten.alias.default, aten._unsafe_view.default, aten.lift_fresh.default)
_OF_OTHERS = "CompositeImplicitAutograd"
_TO, _NUMPY, _EMPTY = torch.Tensor.to, torch.Tensor.numpy, torch.empty
_SET_RESULT, _RESULT = Future.set_result, Future.result


class GpuTensor(torch.Tensor):
    """A tensor whose operations are queued on the current stream of its GPU."""

    gpu: Gpu
    host: torch.Tensor
    """Where it lies."""
    memory: Memory
    place: torch.device

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def wrap(gpu: Gpu, host: torch.Tensor, memory: Memory, place: torch.device) -> GpuTensor:
        with torch.inference_mode(False):
            like = torch.empty_strided(host.shape, host.stride(), dtype=host.dtype, device="meta")
            tensor = torch.Tensor._make_subclass(GpuTensor, like, False)
        tensor.gpu, tensor.host, tensor.memory, tensor.place = gpu, host, memory, place
        return tensor

    @staticmethod
    def take(gpu: Gpu, like: torch.Tensor, place: torch.device) -> GpuTensor:
        """Memory of the current stream, or of a graph that it captures."""
        stream = gpu.current_stream(place)
        size = like.untyped_storage().nbytes() if like.device.type == "meta" else like.nbytes
        if gpu.taken + size > gpu.capacity:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes.")
        with torch.inference_mode(False):
            host = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype)
        poison(host)
        if stream.graph is not None:
            stream.graph.owned.append(host)
            memory = stream.graph.pool
        else:
            gpu.taken += size
            memory = Memory(gpu, size, stream)
        gpu.hold(host, memory)
        return GpuTensor.wrap(gpu, host, memory, place)

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.place

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def data_ptr(self) -> int:
        return self.host.data_ptr()

    def record_stream(self, stream: Stream) -> None:  # type: ignore[override]
        self.memory.users.add(stream)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"GpuTensor({tuple(self.shape)}, {self.dtype}, {self.place})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with torch.inference_mode(False), torch.no_grad():
            if func is aten.copy_.default:
                return copy_between(*args, **kwargs)
            if func is aten._to_copy.default and torch.device(kwargs.get("device") or args[0].place).type == "cpu":
                return download(args[0], kwargs)
            if func is aten.equal.default:
                return torch.equal(*(download(arg, {}) for arg in args))
            if func is aten._local_scalar_dense.default:
                return download(args[0], {}).item()
            if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _OF_OTHERS):  # which come here again
                return func._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
            return queue(func, args, kwargs)


def queue(func: Any, args: Any, kwargs: Any) -> Any:
    """Queue an operation of torch's; its result holds poison until it is done."""
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, GpuTensor)]
    first = tensors[0]
    others = [x for x in leaves if isinstance(x, torch.Tensor) and not isinstance(x, GpuTensor) and x.dim()]
    if others or any(tensor.place != first.place for tensor in tensors):
        raise RuntimeError("Expected all tensors to be on the same device")
    options = {name: value for name, value in kwargs.items() if name not in ("device", "pin_memory", "non_blocking")}
    host_args, host_options = tree_map(_unwrap, (args, options))
    if func.is_view or func in _ALSO_VIEWS:
        wrap = partial(GpuTensor.wrap, first.gpu, memory=first.memory, place=first.place)
        return tree_map(lambda x: wrap(x) if isinstance(x, torch.Tensor) else x, func(*host_args, **host_options))
    stream = first.gpu.current_stream(first.place)
    name, memories = func.overloadpacket.__name__, {tensor.memory for tensor in tensors}
    changed = [
        arg
        for arg, told in zip(args, func._schema.arguments, strict=False)
        if told.alias_info and told.alias_info.is_write
    ]
    if changed:
        stream.put(name, lambda: func(*host_args, **host_options), memories, {one.memory for one in changed})
        return changed[0]
    meta_args, meta_options = tree_map(
        lambda x: x.to("meta") if isinstance(x, torch.Tensor) else x, (host_args, host_options)
    )
    likes = func(*meta_args, **meta_options)
    results = tree_map(lambda x: GpuTensor.take(first.gpu, x, first.place), likes)
    hosts = [result.host for result in tree_leaves(results)]

    def run() -> None:
        for host, value in zip(hosts, tree_leaves(func(*host_args, **host_options)), strict=True):
            host.copy_(value)

    stream.put(name, run, memories, {result.memory for result in tree_leaves(results)})
    return results


def _unwrap(leaf: Any) -> Any:
    return leaf.host if isinstance(leaf, GpuTensor) else leaf


def copy_between(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """`target.copy_(source)` where one of them is on a GPU. Only pinned memory is copied beside the host's work."""
    if isinstance(target, GpuTensor) and isinstance(source, GpuTensor):
        return queue(aten.copy_.default, (target, source), {})  # type: ignore[no-any-return]
    there = target if isinstance(target, GpuTensor) else source
    assert isinstance(there, GpuTensor)
    here = source if there is target else target
    pinned = find_pinned(there.gpu, here)
    if there is target:
        staged = here if pinned and non_blocking else here.clone()
        reads, writes = [pinned] if pinned and non_blocking else [], [there.memory]
        run = partial(there.host.copy_, staged)
    else:
        if pinned and all(work.done for work in pinned.works):
            poison(here)
        reads, writes = [there.memory], [pinned] if pinned else []
        run = partial(here.copy_, there.host)
    work = there.gpu.current_stream(there.place).put("copy", run, reads, writes)
    if not (pinned and non_blocking):
        there.gpu.wait(work)
    return target


def download(source: GpuTensor, options: Any) -> torch.Tensor:
    """`source.to("cpu")`, which waits for it; `non_blocking` gives pinned memory."""
    non_blocking = bool(options.get("non_blocking"))
    target = torch.empty(source.shape, dtype=options.get("dtype") or source.dtype, pin_memory=non_blocking)
    return copy_between(target, source, non_blocking)


def upload(gpu: Gpu, source: torch.Tensor, place: torch.device, *, non_blocking: bool) -> GpuTensor:
    place = torch.device("cuda", gpu.index_of(place))
    target = GpuTensor.take(gpu, source, place)
    copy_between(target, source, non_blocking)
    return target


def find_pinned(gpu: Gpu, tensor: torch.Tensor) -> Memory | None:
    pinned: dict[int, Memory] = gpu.__dict__.setdefault("pinned", {})
    return pinned.get(tensor.untyped_storage().data_ptr())


def cuda_names(gpu: Gpu) -> dict[str, Any]:
    """What `torch.cuda` has instead."""
    return {
        "Stream": partial(Stream, gpu),
        "Event": partial(Event, gpu),
        "CUDAGraph": partial(CudaGraph, gpu),
        "graph": gpu.graph,
        "graph_pool_handle": gpu.graph_pool_handle,
        "stream": gpu.stream,
        "device": gpu.device,
        "current_stream": gpu.current_stream,
        "synchronize": gpu.synchronize,
        "empty_cache": do_nothing,
        "is_available": lambda: True,
        "device_count": lambda: gpu.devices,
        "mem_get_info": lambda device=None: (gpu.capacity - gpu.taken, gpu.capacity),
        "memory_reserved": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
    }


@contextmanager
def torch_cuda(gpu: Gpu) -> Iterator[Gpu]:
    """Let torch see these GPUs."""

    def empty(*size: Any, pin_memory: bool = False, device: Any = None, **options: Any) -> torch.Tensor:
        if device is not None and torch.device(device).type == "cuda":
            return GpuTensor.take(gpu, _EMPTY(*size, device="meta", **options), torch.device(device))
        with torch.inference_mode(False):
            tensor = _EMPTY(*size, device=device, **options)
        if pin_memory:
            poison(tensor)
            find_pinned(gpu, tensor)
            gpu.pinned[tensor.untyped_storage().data_ptr()] = Memory(gpu, 0, None, tensor)  # type: ignore[attr-defined]
        return tensor

    def to(self: torch.Tensor, *args: Any, copy: bool = False, **options: Any) -> torch.Tensor:
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **options)
        if device is None or device.type != "cuda":
            return _TO(self, *args, copy=copy, **options)
        plain = {"dtype": dtype or self.dtype, **({"memory_format": memory_format} if memory_format else {})}
        if isinstance(self, GpuTensor):
            return _TO(self, copy=copy, **plain)
        changed = _TO(self, **plain)
        return upload(gpu, changed, device, non_blocking=non_blocking)

    def numpy(self: torch.Tensor, **options: Any) -> Any:
        if isinstance(self, GpuTensor):
            raise TypeError(f"can't convert {self.place} device type tensor to numpy")
        pinned = find_pinned(gpu, self)
        if pinned is not None:
            pinned.touch_by_host()
        return _NUMPY(self, **options)

    def set_result(self: Future[Any], result: Any) -> None:
        self.waited = dict(gpu.host_clock)  # type: ignore[attr-defined]
        _SET_RESULT(self, result)

    def result(self: Future[Any], timeout: float | None = None) -> Any:
        """Who takes a result from a thread has waited for what that thread has waited for."""
        value = _RESULT(self, timeout)
        merge(gpu.host_clock, getattr(self, "waited", {}))
        return value

    with pytest.MonkeyPatch.context() as patch:
        for name, value in cuda_names(gpu).items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(torch, "empty", empty)
        patch.setattr(torch.Tensor, "to", to)
        patch.setattr(torch.Tensor, "numpy", numpy)
        patch.setattr(Future, "set_result", set_result)
        patch.setattr(Future, "result", result)
        yield gpu


def pictures(count: int, *shape: int) -> list[np.ndarray[Any, Any]]:
    """Random 8-bit samples."""
    return [np.random.default_rng(seed).integers(0, 256, shape, np.uint8) for seed in range(count)]
