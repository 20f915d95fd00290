"""Which TensorRT: the data-center SDK or TensorRT-RTX, one for each process, and what both of them do alike.

Nothing of NVIDIA's is imported before it is chosen.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
from collections import deque
from types import ModuleType
from typing import TYPE_CHECKING

from sr_deploy.deps import Package, require
from sr_deploy.errors import BackendError, MissingDependencyError

if TYPE_CHECKING:
    # The two SDKs have the same names in both modules; either serves to read this file.
    import tensorrt_rtx as trt

_LOG = logging.getLogger(__name__)
_SAID = threading.local()
_MAX_ERRORS = 5
_SWITCH = "POLYGRAPHY_USE_TENSORRT_RTX"


def select_sdk(backend: str, package: Package, *, is_rtx: bool) -> ModuleType:
    """Choose the SDK for the rest of this process and import it.

    Polygraphy reads the choice when it first touches TensorRT: call this before.

    Raises:
        BackendError: this process has chosen the other one.
        MissingDependencyError: it is not installed.
    """
    loaded = sys.modules.get("polygraphy.config")
    if loaded is not None and is_rtx != loaded.USE_TENSORRT_RTX:
        if "polygraphy.backend.trt" in sys.modules:
            raise BackendError(
                f"this process has chosen another TensorRT SDK than {backend}; use it in a process of its own"
            )
        vars(loaded)["USE_TENSORRT_RTX"] = is_rtx  # only its tools for ONNX were used so far
    os.environ[_SWITCH] = str(int(is_rtx))
    try:
        return require(package, f"the {backend} backend")
    except OSError as error:  # its Python part is there, a shared library that it opens is not
        raise MissingDependencyError(
            f"the {backend} backend needs {package.module}, which does not load ({error}); run: {package.install}"
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


def find_io_names(sdk: ModuleType, engine: trt.ICudaEngine) -> tuple[str, str]:
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
