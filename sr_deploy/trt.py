"""Which TensorRT: the data-center SDK or TensorRT-RTX, one for each process, and what this machine can do with it.

Nothing of NVIDIA's is imported before it is needed.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Collection, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from sr_deploy import deps
from sr_deploy.backends import TENSORRT_BACKENDS, Backend, Precision
from sr_deploy.errors import BackendError, InputError, MissingDependencyError
from sr_deploy.gpus import Gpu, plain_capability, visible_gpus

if TYPE_CHECKING:
    # The two SDKs have the same names in both modules; either serves to read this file.
    import tensorrt_rtx as trt

_MODULES: dict[Backend, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_LOG = logging.getLogger(__name__)
_SAID = threading.local()
_MAX_ERRORS = 5
_SWITCH = "POLYGRAPHY_USE_TENSORRT_RTX"
_NO_NAMES = ("NONE", "CURRENT")
_FIRST_FP8 = 89
"""Compute capability 8.9, Ada: products of FP8 begin with it (Hopper 9.0, Blackwell 10.0 and 12.0)."""
_GENERATIONS = {
    "sm75": "Turing",
    "sm80": "Ampere",
    "sm86": "Ampere",
    "sm89": "Ada",
    "sm120": "Blackwell RTX",
    "sm121": "Blackwell RTX",
}


def sdk_version(backend: Backend) -> str | None:
    """Version of the installed SDK, or None. Nothing is imported."""
    return deps.installed_version(_module_name(backend))


def select_sdk(backend: Backend) -> ModuleType:
    """Choose the SDK for the rest of this process and import it.

    Polygraphy reads the choice when it first touches TensorRT: call this before.

    Raises:
        BackendError: this process has chosen the other one.
        MissingDependencyError: it is not installed.
    """
    name = _module_name(backend)
    use_rtx = backend == "tensorrt-rtx"
    loaded = sys.modules.get("polygraphy.config")
    if loaded is not None and use_rtx != loaded.USE_TENSORRT_RTX:
        raise BackendError(
            f"this process has chosen another TensorRT SDK than {backend}; use it in a process of its own"
        )
    os.environ[_SWITCH] = str(int(use_rtx))
    try:
        return deps.require(name, f"the {backend} backend")
    except OSError as error:  # its Python part is there, a shared library that it opens is not
        raise MissingDependencyError(
            f"the {backend} backend needs {name}, which does not load ({error}); run: {deps.install_command(name)}"
        ) from error


@functools.cache
def sdk_log(sdk: ModuleType) -> trt.ILogger:
    """Where an SDK tells what goes wrong; one for the process, since the SDKs keep the first that they are given.

    Warnings go to Python's log. Errors are kept for `take_errors`, since what fails returns None or False alone.
    """

    class Log(sdk.ILogger):  # type: ignore[misc, name-defined]
        def log(self, severity: trt.ILogger.Severity, message: str) -> None:
            if severity in (sdk.ILogger.Severity.ERROR, sdk.ILogger.Severity.INTERNAL_ERROR):
                _errors().append(" ".join(message.split()))
            elif severity == sdk.ILogger.Severity.WARNING:
                _LOG.warning("%s: %s", sdk.__name__, " ".join(message.split()))

    log: trt.ILogger = Log()
    return log


def take_errors() -> str:
    """What SDKs have said went wrong in this thread since this was asked last, in one line; empty: nothing."""
    said = "; ".join(dict.fromkeys(_errors()))
    _errors().clear()
    return said


def _errors() -> deque[str]:
    if not hasattr(_SAID, "errors"):
        _SAID.errors = deque(maxlen=_MAX_ERRORS)
    errors: deque[str] = _SAID.errors
    return errors


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


def compute_capabilities(backend: Backend) -> tuple[str, ...]:
    """What the SDK can build for without a GPU, as in `("sm75", "sm86")`; empty where it builds for its own GPU alone.

    Raises:
        MissingDependencyError: the SDK is not installed.
    """
    if backend != "tensorrt-rtx":
        return ()
    sdk = deps.require(_module_name(backend), f"the {backend} backend")
    return tuple(name.lower() for name in sdk.ComputeCapability.__members__ if name not in _NO_NAMES)


def resolve_compute_capabilities(backend: Backend, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Check names of compute capabilities and put them into the SDK's order; all that it knows if none is wanted.

    Args:
        backend: whose.
        wanted: as in `("sm86", "sm89")`; `8.6` and `86` are understood too.

    Raises:
        InputError: one that the SDK does not build for; the message lists those it does.
        MissingDependencyError: the SDK is not installed.
    """
    known = compute_capabilities(backend)
    if not wanted:
        return known
    if not known:
        raise InputError(f"{backend} builds for the GPU it runs on alone; leave --compute-capability out")
    names = {plain_capability(name) for name in wanted}
    for name in sorted(names):
        if name not in known:
            raise InputError(
                f"{backend} does not build for compute capability {name!r}; known: {describe_capabilities(known)}; "
                "for other GPUs there is the backend tensorrt, on the machine that has one"
            )
    return tuple(name for name in known if name in names)


def find_lacking(precision: Precision, capabilities: Collection[str], *, fp32_matrices: bool = False) -> dict[str, str]:
    """Those of these compute capabilities that lack what a graph needs, and what: one of them fails the build of all.

    Args:
        precision: of the graph.
        capabilities: as in `("sm86", "sm120")`.
        fp32_matrices: whether it multiplies matrices in FP32, beside convolutions (attention).
    """
    if precision == "fp8":
        older = (name for name in capabilities if int(name.removeprefix("sm")) < _FIRST_FP8)
        return dict.fromkeys(older, "no FP8, which begins with sm89 (Ada)")
    if "sm75" not in capabilities:
        return {}
    if precision == "bf16":
        return {"sm75": "no BF16"}
    return {"sm75": "no products of FP32 matrices"} if fp32_matrices else {}


def describe_capabilities(names: Sequence[str]) -> str:
    """Compute capabilities with the generations of cards that have them, as in `sm75 (Turing), sm89 (Ada)`."""
    return ", ".join(f"{name} ({_GENERATIONS[name]})" if name in _GENERATIONS else name for name in names)


def check_gpu(backend: Backend, gpu: Gpu) -> None:
    """Refuse a GPU that no engine of the SDK runs on.

    Raises:
        BackendError: the message lists those it runs on.
        MissingDependencyError: the SDK is not installed.
    """
    known = compute_capabilities(backend)
    if known and gpu.compute_capability not in known:
        raise BackendError(
            f"{backend} does not run on {gpu.name} ({gpu.compute_capability}); it runs on "
            f"{describe_capabilities(known)}; for this GPU there is the backend tensorrt"
        )


def describe_target(backend: Backend, capabilities: tuple[str, ...]) -> str:
    """What an engine is built for, as its record and its key say it.

    Args:
        backend: whose engine.
        capabilities: resolved ones, for `tensorrt-rtx`.

    Raises:
        BackendError: `tensorrt`, and there is no GPU.
    """
    if backend == "tensorrt-rtx":
        return "+".join(capabilities)
    gpus = visible_gpus()
    if not gpus:
        raise BackendError(_NO_GPU)
    return gpus[0].name


def why_not_buildable(backend: Backend) -> str | None:
    """Why this machine cannot build engines with `backend`, and how to fix it; None if it can."""
    module = _module_name(backend)
    if not deps.is_installed(module):
        return f"{module} is not installed; run: {deps.install_command(module)}"
    if backend == "tensorrt" and not visible_gpus():
        return _NO_GPU
    return None


_NO_GPU = (
    "TensorRT builds on the GPU that will run the engine, and no NVIDIA GPU is visible here (the driver shows none)"
)


def _module_name(backend: Backend) -> str:
    if backend not in _MODULES:
        raise InputError(f"{backend} is no TensorRT backend; those are: {', '.join(TENSORRT_BACKENDS)}")
    return _MODULES[backend]
