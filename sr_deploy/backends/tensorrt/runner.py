"""TensorRT and TensorRT-RTX engines on torch's CUDA tensors.

Why it is right, which tests hold with a stub SDK on a simulated GPU (tests/unit/gpu):

- All of an engine is queued on the one stream of its `GraphReplay`, so its contexts run in turn and work in one piece
  of torch's memory. The runner keeps that memory until it is closed, which waits for the stream first.
- A context has one shape, profile and pair of addresses at a time; TensorRT takes them when work is queued. Each graph
  has a context of its own, which nobody else changes; the first context computes what is not captured.
- What a context writes is a tensor of its caller's, taken on the stream that it is queued on.
- An engine outlives its contexts: the bindings see to that, and to the runtime outliving the engine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from sr_deploy.backends import BackendChoice
from sr_deploy.backends.builders import check_gpu
from sr_deploy.backends.registry import get_builder
from sr_deploy.backends.tensorrt.open_engine import (
    KernelCache,
    engine_error,
    load_engine,
    make_context,
    restore_weights,
)
from sr_deploy.backends.tensorrt.sdk import find_io_names, take_errors
from sr_deploy.bundle import EngineRecord, Profile, Shape
from sr_deploy.errors import BackendError, InputError, OutOfMemoryError, ShapeError
from sr_deploy.gpus import Gpu, find_gpu, visible_gpus
from sr_deploy.graph.io_dtype import Dtype
from sr_deploy.model import Model
from sr_deploy.runners.base import BaseRunner, inference_error
from sr_deploy.runners.cuda_graph import GraphReplay
from sr_deploy.runners.engines import find_engine, find_engine_folder, make_search
from sr_deploy.runners.io_conversion import decode_output, encode_input
from sr_deploy.runners.protocol import RunnerSpec, check_input_shape

if TYPE_CHECKING:
    # The two SDKs have the same names in both modules; either serves to read this file.
    import tensorrt_rtx as trt

MAX_CONTEXTS = 4
"""Shapes for which graphs are kept: each has a context."""

_DTYPES: dict[str, Dtype] = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8"}


class TensorRtRunner(BaseRunner):
    """A built engine, bound to torch's memory and run on a stream of its own."""

    def __init__(self, model: Model, choice: BackendChoice, device: str | None, *, cuda_graphs: bool = True) -> None:
        """Choose the engine that fits this GPU and load it.

        Args:
            model: has it.
            choice: backend and precision.
            device: as in `cuda:0`; None: the first GPU.
            cuda_graphs: replay what is launched for a shape; False: launch each kernel by itself.

        Raises:
            BackendError: no such engine, one that is stale or not to be trusted, or one that does not load.
            MissingDependencyError: the SDK is not installed.
        """
        self._device = choose_device(device, choice.backend)
        sdk = get_builder(choice.backend).select_sdk()
        folder = find_engine_folder(model, choice)
        gpu = _describe_device(self._device)
        check_gpu(choice.backend, gpu)
        record = find_engine(folder.engines(), make_search(model, choice, str(sdk.__version__), gpu))
        self._kernels = KernelCache(folder, record, model.trust)
        with torch.cuda.device(self._device):  # TensorRT takes the thread's GPU
            path = folder.path / record.engine.file
            engine = load_engine(sdk, path, model.trust)
            if record.flags.get("strip_weights") == "on":
                restore_weights(sdk, engine, model.graph_path(choice.precision))
            names = find_io_names(sdk, engine)
            taken, given = (_find_dtype(engine, name) for name in names)
            super().__init__(_spec_of(model, record, path, self._device, taken))
            memory = _take_memory(engine.device_memory_size_v2, self._device, self.spec)

            def start() -> EngineContext:
                context = make_context(sdk, engine, self._kernels, (memory.data_ptr(), memory.numel()))
                return EngineContext(context, names, getattr(torch, given), self.spec)

            self._graphs: GraphReplay | None = GraphReplay(
                start(), str(choice), self._device, make_compute=start, max_graphs=MAX_CONTEXTS if cuda_graphs else 0
            )

    def infer_on_device(self, lr: torch.Tensor) -> torch.Tensor:
        """Upscale a tensor that is on the GPU; later work on the current stream waits for the result by itself.

        Args:
            lr: of the type that `spec.dtype` names: N x C x H x W in [0, 1], or N x H x W x C in integers.

        Raises:
            InputError: another type or device.
            ShapeError: outside every profile.
            BackendError: closed, or TensorRT failed.
        """
        self._check_open()
        dtype = getattr(torch, self.spec.dtype)
        if lr.dtype != dtype or lr.device != self._device:
            raise InputError(
                f"{self.spec} takes {dtype} on {self._device}, not {lr.dtype} on {lr.device}; convert it first"
            )
        check_input_shape(as_nchw(lr.shape, self.spec), self.spec)
        return self._enqueue(lr.contiguous())

    def _infer(self, lr_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        lr = torch.from_numpy(encode_input(lr_NCHW, self.spec.dtype)).to(self._device)
        return decode_output(self._enqueue(lr).cpu().numpy())

    def _enqueue(self, lr: torch.Tensor) -> torch.Tensor:
        if self._graphs is None:
            raise BackendError(f"this {self.spec} runner is closed; open another with open_runner")
        try:
            return self._graphs(lr)
        except (RuntimeError, MemoryError) as error:
            raise inference_error(self.spec, lr.shape, error) from error

    def _release(self) -> None:
        if self._graphs is not None:
            self._graphs.clear()
        self._kernels.save()
        self._graphs = None  # and with it the contexts, their memory and the engine


class EngineContext:
    """What runs an engine, for one shape at a time."""

    def __init__(
        self, context: trt.IExecutionContext, names: tuple[str, str], output_dtype: torch.dtype, spec: RunnerSpec
    ) -> None:
        """Take a context.

        Args:
            context: of the engine, with its first profile.
            names: of the input and the output.
            output_dtype: of the output.
            spec: what the engine takes.
        """
        self._context = context
        self._input, self._output = names
        self._output_dtype = output_dtype
        self._spec = spec
        self._profile = 0

    def __call__(self, lr: torch.Tensor) -> torch.Tensor:
        """Queue an inference on the current stream.

        Raises:
            ShapeError: outside every profile.
            BackendError: TensorRT failed.
            OutOfMemoryError: for want of memory.
        """
        take_errors()  # of others, before
        handle, context = torch.cuda.current_stream(lr.device).cuda_stream, self._context
        n, _, h, w = as_nchw(lr.shape, self._spec)
        self._use_profile(choose_profile(self._spec.profiles, Shape(n, h, w)), handle)
        accepted = context.set_input_shape(self._input, tuple(lr.shape))
        shape = tuple(context.get_tensor_shape(self._output))
        if not accepted or min(shape) < 1:
            raise engine_error(f"{self._spec} refused the shape {'x'.join(map(str, lr.shape))}")
        sr = torch.empty(shape, dtype=self._output_dtype, device=lr.device)
        tensors = ((self._input, lr), (self._output, sr))
        bound = all(context.set_tensor_address(name, tensor.data_ptr()) for name, tensor in tensors)
        if not bound or not context.execute_async_v3(handle):
            raise engine_error(f"{self._spec} failed on {'x'.join(map(str, lr.shape))}")
        return sr

    def _use_profile(self, wanted: int, handle: int) -> None:
        if wanted != self._profile:
            if not self._context.set_optimization_profile_async(wanted, handle):
                raise engine_error(f"{self._spec} could not switch to the profile {self._spec.profiles[wanted].name}")
            self._profile = wanted


def choose_profile(profiles: Sequence[Profile], shape: Shape) -> int:
    """Index of the profile that `shape` fits and whose tuned shape is nearest to it in pixels.

    Raises:
        ShapeError: it fits none.
    """
    fitting = [index for index, profile in enumerate(profiles) if profile.contains(shape)]
    if not fitting:
        raise ShapeError(f"{shape} lies outside every profile: {'; '.join(map(str, profiles))}")
    pixels = shape.n * shape.h * shape.w
    return min(fitting, key=lambda index: abs(math.log(math.prod(profiles[index].opt) / pixels)))


def as_nchw(shape: Sequence[int], spec: RunnerSpec) -> tuple[int, ...]:
    """A shape as `spec` has it, in the order N, C, H, W."""
    return (shape[0], shape[3], shape[1], shape[2]) if spec.layout == "NHWC" and len(shape) == 4 else tuple(shape)


def choose_device(device: str | None, backend: str) -> torch.device:
    """The GPU of that name, with its number, as tensors on it have it; `cuda` is the first.

    Raises:
        BackendError: another kind of device.
    """
    try:
        found = torch.device(device or "cuda")
    except RuntimeError:
        found = torch.device("cpu")
    if found.type != "cuda":
        raise BackendError(f"{backend} runs on an NVIDIA GPU, not on {device!r}; leave the device out")
    return torch.device("cuda", found.index or 0)


def _take_memory(size: int, device: torch.device, spec: RunnerSpec) -> torch.Tensor:
    """Working memory of an engine, `size` bytes.

    Raises:
        OutOfMemoryError: there is not so much.
    """
    try:
        return torch.empty(max(size, 1), dtype=torch.uint8, device=device)
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"{spec} takes {size / 2**30:.2f} GiB of GPU memory to work in, and that is not free; build it for smaller "
            "shapes, or free the GPU"
        ) from error


def _find_dtype(engine: trt.ICudaEngine, name: str) -> Dtype:
    dtype = engine.get_tensor_dtype(name)
    if dtype.name not in _DTYPES:
        raise BackendError(f"the engine's {name} is {dtype}; {', '.join(_DTYPES)} are taken")
    return _DTYPES[dtype.name]


def _describe_device(device: torch.device) -> Gpu:
    if not torch.cuda.is_available():
        raise BackendError(
            f"torch {torch.__version__} sees no GPU, and engines run on its tensors; install a CUDA build of torch"
        )
    gpu = find_gpu(str(device))
    if gpu is None:
        raise BackendError(f"there is no {device} here; CUDA sees {len(visible_gpus())} GPUs, from cuda:0 on")
    return gpu


def _spec_of(model: Model, record: EngineRecord, path: Path, device: torch.device, dtype: Dtype) -> RunnerSpec:
    return RunnerSpec(
        backend=record.backend,
        version=record.backend_version,
        precision=record.precision,
        device=str(device),
        scale=model.scale,
        channels=model.channels,
        input_multiple=model.input_multiple,
        profiles=record.profiles,
        dtype=dtype,
        artifact=path,
    )
