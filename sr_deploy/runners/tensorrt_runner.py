"""TensorRT and TensorRT-RTX engines on torch CUDA tensors. Thin, because only a GPU can run it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from sr_deploy.backends import BackendChoice
from sr_deploy.bundle import EngineRecord, Profile, Shape
from sr_deploy.errors import BackendError, InputError, ShapeError
from sr_deploy.graph.ends import Dtype
from sr_deploy.model import Model
from sr_deploy.runners.base import BaseRunner, inference_error
from sr_deploy.runners.ends import decode_output, encode_input
from sr_deploy.runners.engines import find_engine, find_engine_folder, make_search
from sr_deploy.runners.open_engine import KernelCache, load_engine, make_context, restore_weights
from sr_deploy.runners.protocol import RunnerSpec, check_input_shape
from sr_deploy.trt import Gpu, check_gpu, select_sdk

if TYPE_CHECKING:
    # The two SDKs have the same names in both modules; either serves to read this file.
    import tensorrt_rtx as trt

_DTYPE_NAMES: dict[torch.dtype, Dtype] = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.uint8: "uint8",
}


class TensorRtRunner(BaseRunner):
    """A built engine, bound to torch's memory and run on a stream of its own."""

    def __init__(self, model: Model, choice: BackendChoice, device: str | None) -> None:
        """Choose the engine that fits this GPU and load it.

        Raises:
            BackendError: no such engine, one that is stale, or one that does not load.
            MissingDependencyError: the SDK is not installed.
        """
        self._device = torch.device(device or "cuda:0")
        if self._device.type != "cuda":
            raise BackendError(f"{choice.backend} runs on an NVIDIA GPU, not on {device!r}; leave the device out")
        sdk = select_sdk(choice.backend)
        folder = find_engine_folder(model, choice)
        gpu = _describe_device(self._device)
        check_gpu(choice.backend, gpu)
        search = make_search(model, choice, str(sdk.__version__), gpu)
        record = find_engine(folder.engines(), search)
        self._kernels = KernelCache(folder, record)
        with torch.cuda.device(self._device):  # TensorRT takes the thread's GPU
            self._engine: trt.ICudaEngine | None = load_engine(sdk, folder.path / record.engine.file, record.flags)
            if record.flags.get("strip_weights") == "on":
                restore_weights(sdk, self._engine, model.graph_path(choice.precision))
            self._context: trt.IExecutionContext | None = make_context(sdk, self._engine, self._kernels)
        self._input, self._output = name_ends(sdk, self._engine)
        self._dtype = _torch_dtype(sdk, self._engine, self._input)
        self._output_dtype = _torch_dtype(sdk, self._engine, self._output)
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._profiles = record.profiles
        self._active_profile = 0
        path = folder.path / record.engine.file
        super().__init__(_spec_of(model, record, path, self._device, self._dtype))

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
        check_input_shape(_as_nchw(lr.shape, self.spec), self.spec)
        with torch.cuda.device(self._device):
            return self._enqueue(lr.contiguous())

    def _infer(self, lr_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        lr = torch.from_numpy(encode_input(lr_NCHW, self.spec.dtype)).to(self._device)
        with torch.cuda.device(self._device):
            return decode_output(self._enqueue(lr).cpu().numpy())

    def _enqueue(self, lr: torch.Tensor) -> torch.Tensor:
        context = self._context
        if context is None:
            raise BackendError(f"this {self.spec} runner is closed; open another with open_runner")
        caller = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(caller)  # the input may still be on its way
        handle = self._stream.cuda_stream
        try:
            n, _, h, w = _as_nchw(lr.shape, self.spec)
            self._choose_profile(context, Shape(n, h, w), handle)
            accepted = context.set_input_shape(self._input, tuple(lr.shape))
            shape = tuple(context.get_tensor_shape(self._output))
            if not accepted or min(shape) < 1:
                raise BackendError(f"{self.spec} refused the shape {'x'.join(map(str, lr.shape))}")
            sr = torch.empty(shape, dtype=self._output_dtype, device=self._device)
            bound = context.set_tensor_address(self._input, lr.data_ptr()) and context.set_tensor_address(
                self._output, sr.data_ptr()
            )
            if not bound or not context.execute_async_v3(handle):
                raise BackendError(f"{self.spec} failed; its log above says why")
        except (RuntimeError, MemoryError) as error:
            raise inference_error(self.spec, lr.shape, error) from error
        # torch may hand the memory out again as soon as the caller's stream is done with it: this stream uses it too.
        lr.record_stream(self._stream)
        sr.record_stream(self._stream)
        caller.wait_stream(self._stream)
        return sr

    def _choose_profile(self, context: trt.IExecutionContext, shape: Shape, handle: int) -> None:
        wanted = choose_profile(self._profiles, shape)
        if wanted != self._active_profile:
            if not context.set_optimization_profile_async(wanted, handle):
                raise BackendError(f"{self.spec} could not switch to the profile {self._profiles[wanted].name}")
            self._active_profile = wanted

    def _release(self) -> None:
        self._stream.synchronize()
        self._kernels.save()
        self._context = None
        self._engine = None


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


def name_ends(sdk: ModuleType, engine: trt.ICudaEngine) -> tuple[str, str]:
    """Names of the one input and the one output.

    Raises:
        BackendError: the engine has others.
    """
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == sdk.TensorIOMode.INPUT]
    outputs = [name for name in names if engine.get_tensor_mode(name) == sdk.TensorIOMode.OUTPUT]
    if len(inputs) != 1 or len(outputs) != 1:
        raise BackendError(f"the engine has inputs {inputs} and outputs {outputs}; one of each is needed")
    return inputs[0], outputs[0]


def _torch_dtype(sdk: ModuleType, engine: trt.ICudaEngine, name: str) -> torch.dtype:
    dtype = engine.get_tensor_dtype(name)
    if dtype == sdk.DataType.FLOAT:
        return torch.float32
    if dtype == sdk.DataType.HALF:
        return torch.float16
    if dtype == sdk.DataType.UINT8:
        return torch.uint8
    raise BackendError(f"the engine's {name} is {dtype}; FLOAT, HALF and UINT8 are taken")


def _as_nchw(shape: Sequence[int], spec: RunnerSpec) -> tuple[int, ...]:
    """A shape as `spec` has it, in the order N, C, H, W."""
    return (shape[0], shape[3], shape[1], shape[2]) if spec.layout == "NHWC" and len(shape) == 4 else tuple(shape)


def _describe_device(device: torch.device) -> Gpu:
    if not torch.cuda.is_available():
        raise BackendError(
            f"torch {torch.__version__} sees no GPU, and engines run on its tensors; install a CUDA build of torch"
        )
    major, minor = torch.cuda.get_device_capability(device)
    return Gpu(torch.cuda.get_device_name(device), f"sm{major}{minor}")


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
        artefact=path,
    )
