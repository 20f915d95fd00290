"""A TensorRT that is made up: the names that sr-deploy uses, on a simulated GPU.

Engines compute in NumPy, at the addresses and on the stream that they are given. They have the rules of the real ones
that matter here: a shape has to be within the profile that is chosen, a switch of profiles forgets shapes, memory that
is the user's has to be given, a graph that was captured wants its context as it was, and of a failure None or False
comes back while a log is told why. tests/unit/gpu/test_bindings.py holds all of its names against the real bindings.
"""

from __future__ import annotations

import enum
import json
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sr_deploy.bundle import Profile, Shape
from sr_deploy.runners.io_conversion import decode_output, encode_input
from tests.unit.gpu.streams import Gpu, Memory

OUT_OF_MEMORY = "[executionContext.cpp::init] Error Code 2: OutOfMemory (Requested size was 12 bytes.)"
INSTALLED: dict[str, dict[str, Any]] = {}
"""What is in the packages that tests install."""
_TORCH = {"FLOAT": torch.float32, "HALF": torch.float16, "UINT8": torch.uint8}


@dataclass
class Stub:
    """What the SDK's engines are and do."""

    gpu: Gpu
    compute: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    profiles: Sequence[Profile]
    scale: int = 2
    dtype: str = "FLOAT"
    work_bytes: int = 4096
    stripped: bool = False
    refuses: dict[str, str] = field(default_factory=dict)
    """Calls that fail, and what the log is told."""
    max_pixels: int | None = None
    """Beyond it memory is not enough."""
    layers: str = '{"Layers": []}'
    calls: list[str] = field(default_factory=list)
    logger: Any = None

    def names(self, *, rtx: bool) -> dict[str, Any]:
        """What the module has."""
        names = {
            "ILogger": ILogger,
            "DataType": DataType,
            "TensorIOMode": TensorIOMode,
            "LayerInformationFormat": LayerInformationFormat,
            "ExecutionContextAllocationStrategy": ExecutionContextAllocationStrategy,
            "Runtime": lambda logger: Runtime(self, logger),
            "Refitter": lambda engine, logger: Refitter(engine),
            "OnnxParserRefitter": lambda refitter, logger: OnnxParserRefitter(refitter),
        }
        if rtx:
            names |= {
                "CudaGraphStrategy": CudaGraphStrategy,
                "DynamicShapesKernelSpecializationStrategy": DynamicShapesKernelSpecializationStrategy,
                "ComputeCapability": ComputeCapability,
            }
        return names

    def allows(self, call: str, said: str = "") -> bool:
        """Note a call; of one that fails tell the log why."""
        self.calls.append(call)
        said = said or self.refuses.get(call, "")
        if said:
            self.logger.log(ILogger.Severity.ERROR, said)
        return not said


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


DataType = enum.Enum("DataType", "FLOAT HALF BF16 INT8 UINT8")
TensorIOMode = enum.Enum("TensorIOMode", "NONE INPUT OUTPUT")
LayerInformationFormat = enum.Enum("LayerInformationFormat", "ONELINE JSON")
ExecutionContextAllocationStrategy = enum.Enum("ExecutionContextAllocationStrategy", "STATIC USER_MANAGED")
CudaGraphStrategy = enum.Enum("CudaGraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE")
DynamicShapesKernelSpecializationStrategy = enum.Enum("DynamicShapesKernelSpecializationStrategy", "LAZY EAGER NONE")
ComputeCapability = enum.Enum("ComputeCapability", "NONE CURRENT SM75 SM86 SM89 SM120")


class Runtime:
    def __init__(self, stub: Stub, logger: Any) -> None:
        stub.logger = logger
        if "no runtime" in stub.refuses:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.__dict__["alive"] = stub.allows("Runtime")
        self.__dict__["stub"] = stub
        self.__dict__["engine_host_code_allowed"] = False

    def __setattr__(self, name: str, value: bool) -> None:
        if not self.alive:  # the real one has nothing behind it then, and the process ends
            raise SystemError("segmentation fault")
        self.__dict__[name] = value

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        return ICudaEngine(self.stub) if serialized_engine and self.stub.allows("deserialize_cuda_engine") else None


class ICudaEngine:
    num_io_tensors = 2

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self.weights = not stub.stripped

    @property
    def device_memory_size_v2(self) -> int:
        return self.stub.work_bytes

    def get_tensor_name(self, index: int) -> str:
        return ("lr", "sr")[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return {"lr": TensorIOMode.INPUT, "sr": TensorIOMode.OUTPUT}[name]

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[self.stub.dtype]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        profile = self.stub.profiles[profile_index]
        return [(shape.n, 3, shape.h, shape.w) for shape in (profile.min, profile.opt, profile.max)]

    def create_execution_context(
        self, strategy: Any = ExecutionContextAllocationStrategy.STATIC
    ) -> IExecutionContext | None:
        if isinstance(strategy, IRuntimeConfig):
            assert strategy.cuda_graph_strategy is CudaGraphStrategy.DISABLED
            strategy = strategy.strategy
        return IExecutionContext(self, strategy) if self.stub.allows("create_execution_context") else None

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self.stub)


class IRuntimeConfig:
    cuda_graph_strategy = CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        return True


class IRuntimeCache:
    def __init__(self) -> None:
        self.content = b"kernels that were compiled"

    def deserialize(self, blob: bytes) -> bool:
        self.content = blob
        return True

    def serialize(self) -> bytes:
        return self.content


class EngineInspector:
    execution_context: IExecutionContext | None = None

    def __init__(self, stub: Stub) -> None:
        self.stub = stub

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        assert format is LayerInformationFormat.JSON
        if self.execution_context is not None and self.execution_context.shape:
            return self.stub.layers
        layers = json.loads(self.stub.layers)["Layers"]
        unknown = [{**layer, "Outputs": [{"Format/Datatype": "N/A due to dynamic shapes"}]} for layer in layers]
        return json.dumps({"Layers": unknown})


class Refitter:
    def __init__(self, engine: ICudaEngine) -> None:
        self.engine = engine
        self.given: bytes | None = None

    def refit_cuda_engine(self) -> bool:
        self.engine.weights = self.given is not None and self.engine.stub.allows("refit_cuda_engine")
        return self.engine.weights


class OnnxParserRefitter:
    def __init__(self, refitter: Refitter) -> None:
        self.refitter = refitter

    def refit_from_file(self, model: str) -> bool:
        self.refitter.given = Path(model).read_bytes()
        return self.refitter.engine.stub.allows("refit_from_file")


class IExecutionContext:
    def __init__(self, engine: ICudaEngine, strategy: ExecutionContextAllocationStrategy) -> None:
        self.engine, self.stub = engine, engine.stub
        self.profile = 0
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}
        self.work: tuple[int, int] = (0, 0)
        self.owns_work = strategy is not ExecutionContextAllocationStrategy.USER_MANAGED
        if self.owns_work:
            self.stub.calls.append("memory of a context alone")
        self.state = Memory(self.stub.gpu, 0, None, owner="a context")

    def set_device_memory(self, memory: int, size: int) -> None:
        self.work = (memory, size)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profile, self.shape = profile_index, ()
        return self.stub.allows("set_optimization_profile_async")

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        n, h, w = (shape[0], *(shape[1:3] if self.stub.dtype == "UINT8" else shape[2:]))
        fits = self.stub.profiles[self.profile].contains(Shape(n, h, w))
        self.shape = shape
        return self.stub.allows("set_input_shape", "" if fits else f"{shape} does not satisfy the profile")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        scale = self.stub.scale
        factors = (1, scale, scale, 1) if self.stub.dtype == "UINT8" else (1, 1, scale, scale)
        return tuple(side * factor for side, factor in zip(self.shape, factors, strict=True)) or (-1,) * 4

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return self.stub.allows("set_tensor_address")

    def execute_async_v3(self, stream_handle: int) -> bool:
        stub, gpu, shape = self.stub, self.stub.gpu, self.shape
        if stub.max_pixels is not None and np.prod(shape) // 3 > stub.max_pixels:
            return stub.allows("execute_async_v3", OUT_OF_MEMORY)
        used = [self.state]
        if not self.owns_work:
            if self.work[1] < self.engine.device_memory_size_v2:
                return stub.allows("execute_async_v3", "no device memory was set")
            used.append(gpu.look_up(self.work[0], (1,), torch.uint8)[1])
        dtype = _TORCH[stub.dtype]
        lr, read = gpu.look_up(self.addresses["lr"], shape, dtype)
        sr, written = gpu.look_up(self.addresses["sr"], self.get_tensor_shape("sr"), dtype)
        stream = gpu.streams[stream_handle]
        captured, engine, reference = stream.graph is not None, self.engine, weakref.ref(self)

        def run() -> None:
            context = reference()
            if context is None or (captured and context.shape != shape):
                gpu.blame("a context is gone, or was given another shape than the graph that was captured of it has")
            result = stub.compute(decode_output(lr.numpy())) if engine.weights else np.float32(0)
            result = np.broadcast_to(result, decode_output(sr.numpy()).shape)
            sr.copy_(torch.from_numpy(encode_input(result.copy(), dtype_name(stub.dtype))))

        stream.put("enqueue", run, [read], [*used, written])
        return stub.allows("execute_async_v3")


def dtype_name(name: str) -> Any:
    return {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8"}[name]


def repeat(lr_NCHW: NDArray[np.float32], scale: int = 2) -> NDArray[np.float32]:
    """A network for those who need none: pixels repeated."""
    return lr_NCHW.repeat(scale, axis=2).repeat(scale, axis=3)
