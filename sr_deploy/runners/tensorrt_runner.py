"""TensorRT and TensorRT-RTX engines on torch CUDA tensors. Thin, because only a GPU can run it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from sr_deploy.backends import Backend, BackendChoice
from sr_deploy.bundle import EngineRecord
from sr_deploy.errors import BackendError, InputError, OutOfMemoryError
from sr_deploy.gpus import Gpu, find_gpu, visible_gpus
from sr_deploy.graph.ends import Dtype
from sr_deploy.model import Model
from sr_deploy.runners.base import BaseRunner, inference_error
from sr_deploy.runners.cuda_graph import Compute, GraphReplay
from sr_deploy.runners.ends import decode_output, encode_input
from sr_deploy.runners.engine_context import EngineContext, as_nchw
from sr_deploy.runners.engines import find_engine, find_engine_folder, make_search
from sr_deploy.runners.open_engine import KernelCache, load_engine, make_context, restore_weights
from sr_deploy.runners.protocol import RunnerSpec, check_input_shape
from sr_deploy.trt import check_gpu, name_ends, select_sdk

if TYPE_CHECKING:
    # The two SDKs have the same names in both modules; either serves to read this file.
    import tensorrt_rtx as trt

MOST_CONTEXTS = 4
"""Shapes for which graphs are kept: each has a context."""

_DTYPE_NAMES: dict[torch.dtype, Dtype] = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.uint8: "uint8",
}


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
        sdk = select_sdk(choice.backend)
        folder = find_engine_folder(model, choice)
        gpu = _describe_device(self._device)
        check_gpu(choice.backend, gpu)
        search = make_search(model, choice, str(sdk.__version__), gpu)
        record = find_engine(folder.engines(), search)
        self._kernels = KernelCache(folder, record, model.trust)
        with torch.cuda.device(self._device):  # TensorRT takes the thread's GPU
            path = folder.path / record.engine.file
            engine = load_engine(sdk, path, model.trust)
            if record.flags.get("strip_weights") == "on":
                restore_weights(sdk, engine, model.graph_path(choice.precision))
            names = name_ends(sdk, engine)
            self._dtype, output_dtype = (_torch_dtype(sdk, engine, name) for name in names)
            super().__init__(_spec_of(model, record, path, self._device, self._dtype))

            # One for all contexts: they run in turn, on one stream. From torch, which then knows what is taken.
            memory = _take_memory(engine.device_memory_size_v2, self._device, self.spec)

            def start() -> EngineContext:
                context = make_context(sdk, engine, self._kernels, (memory.data_ptr(), memory.numel()))
                return EngineContext(context, names, output_dtype, self.spec)

            self._compute: Compute | None = start()
        self._graphs: GraphReplay | None = None
        if cuda_graphs:  # a context for each graph: another shape would change its own
            self._graphs = GraphReplay(self._compute, str(choice), make_compute=start, most=MOST_CONTEXTS)
            self._compute = self._graphs
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    @property
    def stream(self) -> torch.cuda.Stream:
        """Where the engine runs."""
        return self._stream

    def infer_on_device(self, lr: torch.Tensor) -> torch.Tensor:
        """Upscale a tensor that is on the GPU; later work on the current stream waits for the result by itself.

        Args:
            lr: of the type that `spec.dtype` names: N x C x H x W in [0, 1], or N x H x W x C in whole numbers.

        Raises:
            InputError: another type or device.
            ShapeError: outside every profile.
            BackendError: closed, or TensorRT failed.
        """
        self._check_open()
        if lr.dtype != self._dtype or lr.device != self._device:
            raise InputError(
                f"{self.spec} takes {self._dtype} on {self._device}, not {lr.dtype} on {lr.device}; convert it first"
            )
        check_input_shape(as_nchw(lr.shape, self.spec), self.spec)
        with torch.cuda.device(self._device):
            return self._enqueue(lr.contiguous())

    def _infer(self, lr_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        lr = torch.from_numpy(encode_input(lr_NCHW, self.spec.dtype)).to(self._device)
        with torch.cuda.device(self._device):
            return decode_output(self._enqueue(lr).cpu().numpy())

    def _enqueue(self, lr: torch.Tensor) -> torch.Tensor:
        if self._compute is None:
            raise BackendError(f"this {self.spec} runner is closed; open another with open_runner")
        caller = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(caller)  # the input may still be on its way
        try:
            with torch.cuda.stream(self._stream):
                sr = self._compute(lr)
        except (RuntimeError, MemoryError, OutOfMemoryError) as error:
            if self._graphs is not None:
                self._graphs.clear()
            torch.cuda.empty_cache()  # what is cached is of other shapes than the next one
            if isinstance(error, OutOfMemoryError):
                raise
            raise inference_error(self.spec, lr.shape, error) from error
        # torch may hand memory out again as soon as the stream that it was taken on is done: the other one uses it too.
        lr.record_stream(self._stream)
        sr.record_stream(caller)
        caller.wait_stream(self._stream)
        return sr

    def _release(self) -> None:
        self._stream.synchronize()
        self._kernels.save()
        if self._graphs is not None:
            self._graphs.clear()
        self._compute = self._graphs = None  # and with them the contexts and the engine


def choose_device(device: str | None, backend: Backend) -> torch.device:
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
    """Working memory of an engine.

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


def _torch_dtype(sdk: ModuleType, engine: trt.ICudaEngine, name: str) -> torch.dtype:
    dtype = engine.get_tensor_dtype(name)
    if dtype == sdk.DataType.FLOAT:
        return torch.float32
    if dtype == sdk.DataType.HALF:
        return torch.float16
    if dtype == sdk.DataType.UINT8:
        return torch.uint8
    raise BackendError(f"the engine's {name} is {dtype}; FLOAT, HALF and UINT8 are taken")


def _describe_device(device: torch.device) -> Gpu:
    if not torch.cuda.is_available():
        raise BackendError(
            f"torch {torch.__version__} sees no GPU, and engines run on its tensors; install a CUDA build of torch"
        )
    gpu = find_gpu(str(device))
    if gpu is None:
        raise BackendError(f"there is no {device} here; CUDA sees {len(visible_gpus())} GPUs, from cuda:0 on")
    return gpu


def _spec_of(model: Model, record: EngineRecord, path: Path, device: torch.device, dtype: torch.dtype) -> RunnerSpec:
    return RunnerSpec(
        backend=record.backend,
        version=record.backend_version,
        precision=record.precision,
        device=str(device),
        scale=model.scale,
        channels=model.channels,
        input_multiple=model.input_multiple,
        profiles=record.profiles,
        dtype=_DTYPE_NAMES[dtype],
        artifact=path,
    )
