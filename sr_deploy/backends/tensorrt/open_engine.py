"""Opening an engine: its weights put back where it has none, and the kernels that earlier runs compiled. No torch here.

Thin, because only a GPU can run it.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from sr_deploy.backends.tensorrt.sdk import sdk_log, take_errors
from sr_deploy.bundle import EngineRecord
from sr_deploy.bundle.engine_folder import EngineFolder, runtime_cache_name
from sr_deploy.bundle.trust import BUILT_HERE, EngineTrust, register_bytes, were_made_here
from sr_deploy.errors import BackendError, LockedError, OutOfMemoryError, OutputError, find_want_of_memory
from sr_deploy.legible import shorten
from sr_deploy.untrusted import open_regular

if TYPE_CHECKING:
    # The two SDKs have the same names in both modules; either serves to read this file.
    import tensorrt_rtx as trt

_LOG = logging.getLogger(__name__)
_MOST_SAID = 400


class KernelCache:
    """Kernels that TensorRT-RTX compiles for a GPU when an engine first runs there, kept with the bundle."""

    def __init__(self, folder: EngineFolder, record: EngineRecord, trust: EngineTrust) -> None:
        """Where they are kept; nothing is read yet. Those of others are code as their engines are (`bundle.trust`)."""
        self._folder = folder
        self._trust = trust
        self._name = runtime_cache_name(record)
        self._cache: trt.IRuntimeCache | None = None
        self._saved = b""

    def attach(self, config: trt.IRuntimeConfig) -> None:
        """Give a runtime configuration what was kept; what another GPU or driver made is refused by the SDK itself."""
        self._cache = config.create_runtime_cache()
        self._saved = self._folder.read_cache(self._name)
        if self._saved and not (self._trust.elsewhere or were_made_here(self._saved)):
            _LOG.debug("%s was not written here; kernels are compiled anew", self._folder.cache(self._name))
            self._saved = b""
        if self._saved and not self._cache.deserialize(self._saved):
            _LOG.debug("%s does not suit this machine; kernels are compiled anew", self._folder.cache(self._name))
            self._saved = b""
        if not config.set_runtime_cache(self._cache):
            raise BackendError("TensorRT-RTX did not take a runtime cache")

    def save(self) -> None:
        """Keep what was compiled since; a bundle that cannot be written to is left as it is, and the log says so."""
        if self._cache is None:
            return
        content = bytes(self._cache.serialize())
        if content and content != self._saved:
            try:
                self._folder.write_cache(self._name, content)
                register_bytes(content)  # if that fails they are compiled anew the next time
            except (OutputError, LockedError) as error:
                _LOG.warning("compiled kernels are not kept: %s", error)
        self._cache = None


def open_engine(sdk: ModuleType, content: bytes, trust: EngineTrust = BUILT_HERE) -> trt.ICudaEngine | None:
    """Deserialize an engine. Nothing else in sr-deploy does.

    Args:
        sdk: whose engine.
        content: its bytes; these very bytes are looked for in the registry.
        trust: what the user allows.

    Returns:
        The engine; None where the SDK does not take it.

    Raises:
        BackendError: it was not built here, and the user has not said that he trusts it; or the SDK does not start.
    """
    if not trust.elsewhere and not were_made_here(content):
        raise BackendError("the engine was not built here, and an engine is code; to run it: --trust-engine")
    take_errors()  # of others, before
    runtime = None
    with contextlib.suppress(TypeError):  # raised where there is none
        runtime = sdk.Runtime(sdk_log(sdk))
    # With a driver that is too old there may be one all the same, whose next call ends the process.
    if (said := take_errors()) or runtime is None:
        raise BackendError(f"{sdk.__name__} does not start here: {said or 'it gave no runtime'}")
    runtime.engine_host_code_allowed = trust.host_code
    return runtime.deserialize_cuda_engine(content)


def load_engine(sdk: ModuleType, path: Path, trust: EngineTrust) -> trt.ICudaEngine:
    """Deserialize an engine file.

    Args:
        sdk: whose engine.
        path: the file, from a bundle whose hashes were checked.
        trust: which engines the user lets run.

    Raises:
        BackendError: the SDK does not take it, or it was not built here and nobody said that it may run.
    """
    with open_regular(path) as stream:
        content = stream.read()
    try:
        engine = open_engine(sdk, content, trust)
    except BackendError as error:
        raise BackendError(f"{path}: {error}") from error
    if engine is None:
        raise engine_error(
            f"{sdk.__name__} {sdk.__version__} cannot load {path}", "build it again with: sr-deploy build"
        )
    return engine


def engine_error(what: str, remedy: str = "") -> BackendError:
    """What to raise where an SDK gave nothing back: with what it said itself, as want of memory if it was that."""
    said = take_errors()
    kind = BackendError if find_want_of_memory(RuntimeError(said)) is None else OutOfMemoryError
    return kind(what + (f" ({shorten(said, _MOST_SAID)})" if said else "") + (f"; {remedy}" if remedy else ""))


def restore_weights(sdk: ModuleType, engine: trt.ICudaEngine, graph: Path) -> None:
    """Put the weights of a graph into an engine that was built without.

    Raises:
        BackendError: the SDK does not take them.
    """
    logger = sdk_log(sdk)
    refitter = sdk.Refitter(engine, logger)
    parser = sdk.OnnxParserRefitter(refitter, logger)
    if not parser.refit_from_file(str(graph)) or not refitter.refit_cuda_engine():
        raise engine_error(
            f"{sdk.__name__} could not put the weights of {graph} into the engine",
            "build it again, without --strip-weights",
        )


def make_context(
    sdk: ModuleType, engine: trt.ICudaEngine, kernels: KernelCache, memory: tuple[int, int]
) -> trt.IExecutionContext:
    """An execution context that works in memory of the caller's; with TensorRT-RTX its kernels are compiled at once.

    TensorRT-RTX is not asked to replay CUDA graphs by itself: it captures anew whenever an address changes, as those of
    results do. `GraphReplay` replays for both SDKs, with addresses that stay.

    Args:
        sdk: whose engine.
        engine: opened.
        kernels: those compiled before, for TensorRT-RTX.
        memory: address and bytes, at least `engine.device_memory_size_v2`, aligned to 256. Contexts that never run at
            the same time may share it.

    Raises:
        BackendError: the engine does not start on this GPU.
        OutOfMemoryError: it takes more memory than there is.
    """
    strategy = sdk.ExecutionContextAllocationStrategy.USER_MANAGED
    if hasattr(sdk, "CudaGraphStrategy"):
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        config.cuda_graph_strategy = sdk.CudaGraphStrategy.DISABLED
        config.dynamic_shapes_kernel_specialization_strategy = sdk.DynamicShapesKernelSpecializationStrategy.EAGER
        kernels.attach(config)
        context = engine.create_execution_context(config)
    else:
        context = engine.create_execution_context(strategy)
    if context is None:
        raise engine_error(f"{sdk.__name__} could not start the engine on this GPU")
    context.set_device_memory(*memory)
    return context
