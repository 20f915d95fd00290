"""What an SDK says of a failure reaches the error, and want of memory is told from all else."""

from __future__ import annotations

import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from sr_deploy import trt
from sr_deploy.bundle import parse_profile
from sr_deploy.bundle.trust import EngineTrust
from sr_deploy.errors import BackendError, OutOfMemoryError
from sr_deploy.runners.open_engine import KernelCache, load_engine, make_context
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.runners.tensorrt_runner import EngineContext, choose_device
from sr_deploy.trt import sdk_log, take_errors

MEMORY = "[executionContext.cpp::initializeExecutionContext] Error Code 2: OutOfMemory (Requested size was 12 bytes.)"
OTHER = "IExecutionContext::enqueueV3: Error Code 1: Cask (Cask convolution execution)"
SPEC = RunnerSpec("tensorrt-rtx", "1", "fp16", "cuda:0", 2, 3, profiles=(parse_profile("tile=1x8x8,1x16x16,1x32x32"),))


class Severity:
    INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)


class Logger:
    Severity = Severity


SDK = ModuleType("tensorrt")
vars(SDK).update(
    __version__="11",
    ILogger=Logger,
    ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user"),
)


class Context:
    """Fails at one call, and says why as the SDK does."""

    def __init__(self, fails_at: str, said: str) -> None:
        self.fails_at, self.said = fails_at, said

    def _answer(self, call: str) -> bool:
        if call != self.fails_at:
            return True
        sdk_log(SDK).log(Severity.ERROR, self.said)
        return False

    def set_input_shape(self, *_: object) -> bool:
        return self._answer("shape")

    def get_tensor_shape(self, _: str) -> tuple[int, ...]:
        return (1, 3, 32, 32)

    def set_tensor_address(self, *_: object) -> bool:
        return self._answer("address")

    def execute_async_v3(self, _: int) -> bool:
        return self._answer("enqueue")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=0))
    take_errors()


@pytest.mark.parametrize("call", ["shape", "address", "enqueue"])
@pytest.mark.parametrize(("said", "kind"), [(MEMORY, OutOfMemoryError), (OTHER, BackendError)])
def test_a_call_that_fails_says_why(call: str, said: str, kind: type[BackendError]) -> None:
    sdk_log(SDK).log(Severity.ERROR, f"{MEMORY} of a call before, which went well in the end")
    context: Any = Context(call, said)
    run = EngineContext(context, ("lr", "sr"), torch.float32, SPEC)
    with pytest.raises(BackendError) as caught:
        run(torch.zeros(1, 3, 16, 16))
    assert type(caught.value) is kind
    assert said in str(caught.value)
    assert "1x3x16x16" in str(caught.value)
    assert "call before" not in str(caught.value)


def test_a_context_that_does_not_start_for_want_of_memory_is_that() -> None:
    def create(strategy: str) -> None:
        assert strategy == "user"
        sdk_log(SDK).log(Severity.INTERNAL_ERROR, MEMORY)

    engine: Any = SimpleNamespace(create_execution_context=create)
    kernels: Any = KernelCache.__new__(KernelCache)
    with pytest.raises(OutOfMemoryError, match="tensorrt could not start the engine on this GPU"):
        make_context(SDK, engine, kernels, (0, 0))


def test_contexts_work_in_the_memory_that_they_are_given() -> None:
    """Of TensorRT-RTX by its runtime configuration, with CUDA graphs left to `GraphReplay`."""
    given: list[tuple[int, int]] = []
    context = SimpleNamespace(set_device_memory=lambda address, size: given.append((address, size)))
    config = SimpleNamespace()
    config.set_execution_context_allocation_strategy = lambda strategy: setattr(config, "strategy", strategy)
    rtx = ModuleType("tensorrt_rtx")
    vars(rtx).update(
        ExecutionContextAllocationStrategy=SDK.ExecutionContextAllocationStrategy,
        CudaGraphStrategy=SimpleNamespace(DISABLED="off"),
        DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
    )
    engine: Any = SimpleNamespace(
        create_runtime_config=lambda: config, create_execution_context=lambda how: context if how is config else None
    )
    kernels: Any = SimpleNamespace(attach=lambda _: None)
    assert make_context(rtx, engine, kernels, (4096, 256)) is context
    assert (config.strategy, config.cuda_graph_strategy, given) == ("user", "off", [(4096, 256)])


def test_errors_of_another_thread_are_not_taken() -> None:
    thread = threading.Thread(target=lambda: sdk_log(SDK).log(Severity.ERROR, OTHER))
    thread.start()
    thread.join()
    assert take_errors() == ""


def test_the_real_bindings_tell_it_there(tmp_path: Any) -> None:
    pytest.importorskip("tensorrt_rtx")
    path = tmp_path / "broken.engine"
    path.write_bytes(b"no engine" * 100)
    sdk = trt.select_sdk("tensorrt-rtx")
    with pytest.raises(BackendError, match=r"cannot load .*broken.engine \(.+\); build it again"):
        load_engine(sdk, path, EngineTrust(elsewhere=True))
    assert sdk_log(sdk) is sdk_log(sdk)


@pytest.mark.parametrize(
    ("name", "found"), [(None, "cuda:0"), ("cuda", "cuda:0"), ("cuda:0", "cuda:0"), ("cuda:1", "cuda:1")]
)
def test_a_device_has_the_number_that_tensors_on_it_have(name: str | None, found: str) -> None:
    assert str(choose_device(name, "tensorrt")) == found


@pytest.mark.parametrize("name", ["cpu", "tpu", "cuda:x"])
def test_engines_run_on_gpus(name: str) -> None:
    with pytest.raises(BackendError, match=f"tensorrt runs on an NVIDIA GPU, not on '{name}'"):
        choose_device(name, "tensorrt")
