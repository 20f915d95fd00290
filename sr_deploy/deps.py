"""Optional packages: imported when needed, and named with the command that installs them when absent."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from sr_deploy.errors import MissingDependencyError

if TYPE_CHECKING:
    import onnxruntime
    import openvino

# module -> (distribution, what installs it)
_INSTALL = {
    "torch": ("torch", "pip install torch"),
    "onnx": ("onnx", "pip install sr-deploy"),
    "onnxscript": ("onnxscript", "pip install sr-deploy"),
    "onnxruntime": ("onnxruntime", "pip install sr-deploy"),
    "polygraphy": ("polygraphy", "pip install sr-deploy"),
    "safetensors": ("safetensors", "pip install sr-deploy"),
    "pyvips": ("pyvips", "pip install 'pyvips[binary]'"),
    "av": ("av", "pip install av"),
    "skimage": ("scikit-image", "pip install scikit-image"),
    "openvino": ("openvino", "pip install 'sr-deploy[openvino]'"),
    "tensorrt_rtx": ("tensorrt_rtx_cu13", "pip install 'sr-deploy[rtx]'"),
    "tensorrt": (
        "tensorrt_cu13",
        "pip install 'sr-deploy[tensorrt]' with NVIDIA's package index (see docs/backends.md)",
    ),
    "ray": ("ray", "pip install 'sr-deploy[ray]'"),
    "ray.data": ("ray", "pip install 'sr-deploy[ray]'"),
    "tensorboard": ("tensorboard", "pip install 'sr-deploy[train]'"),
    "cryptography": ("cryptography", "pip install 'sr-deploy[signing]'"),
}

_FATAL = 4
"""ONNX Runtime's level of what ends the process."""

# Imported along with a library, these tell its maker over the network that it is used, without asking. It runs without.
_REPORTERS = {"openvino": "openvino_telemetry"}


def is_installed(module: str) -> bool:
    """Whether `module` can be found, without importing it."""
    return importlib.util.find_spec(module) is not None


def install_command(module: str) -> str:
    """The command that brings `module`."""
    return _INSTALL[module][1]


def installed_version(module: str) -> str | None:
    """Version of `module`, or None if it is absent. Nothing is imported.

    That of the distribution that brings it; where another one does (NVIDIA's containers, JetPack, wheels for another
    CUDA), what its source says.
    """
    try:
        return importlib.metadata.version(_INSTALL[module][0])
    except importlib.metadata.PackageNotFoundError:
        return _read_version(module)


def _read_version(module: str, depth: int = 3) -> str | None:
    """`__version__` as a module's source assigns it, or that of the module that it imports it from."""
    spec = importlib.util.find_spec(module) if is_installed(module.partition(".")[0]) else None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    try:
        body = ast.parse(Path(spec.origin).read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return None
    for statement in body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="__version__")], value=ast.Constant(value=str() as version)):
                return version
            case ast.ImportFrom(module=str() as other, names=names, level=0) if depth and any(
                one.name == "__version__" for one in names
            ):
                return _read_version(other, depth - 1)
    return None


def require(module: str, purpose: str) -> ModuleType:
    """Import `module`, or say what is missing. What it would report about its use is not sent.

    Args:
        module: import name, one of those known here.
        purpose: what it is needed for, as in "training shows its curves in TensorBoard with it".

    Raises:
        MissingDependencyError: absent, or present and broken; the message has the command that installs it.
    """
    try:
        with _unreported(module):
            return importlib.import_module(module)
    except ImportError as error:
        found = "is not installed" if not is_installed(module) else f"does not load ({error})"
        raise MissingDependencyError(
            f"{purpose} needs {module}, which {found}; run: {install_command(module)}"
        ) from error


def openvino_core(purpose: str) -> openvino.Core:
    """OpenVINO, loaded once for the process.

    Its CPU plugin (2026.4) gives the thread another stack for signals, and puts the one before back when its core goes.
    Of two cores that go in the order in which they came, the second puts back what the first has freed: the next Ctrl-C
    is then a segmentation fault.

    Raises:
        MissingDependencyError: it is not installed.
    """
    require("openvino", purpose)
    return _make_core()


def silent_session_options(purpose: str, *, plan_memory: bool = True) -> onnxruntime.SessionOptions:
    """ONNX Runtime's options for a session that writes nothing to stderr: names of nodes would stand there as they are.

    What it would say of an error is in its exceptions.

    Args:
        purpose: what needs it, for the message where it is absent.
        plan_memory: whether it plans ahead which tensors share memory. For inputs of any size that takes time by the
            square of the nodes, most of the opening of an RRDBNet of 23 blocks. Without the plan the allocator gives
            freed memory out again all the same; networks of few layers are a little slower.

    Raises:
        MissingDependencyError: it is not installed.
    """
    ort = require("onnxruntime", purpose)
    ort.set_default_logger_severity(_FATAL)
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    options.enable_mem_reuse = plan_memory
    return cast("onnxruntime.SessionOptions", options)


@functools.cache
def _make_core() -> openvino.Core:
    import openvino

    return openvino.Core()


@contextlib.contextmanager
def _unreported(module: str) -> Iterator[None]:
    """Let its reporter look absent while `module` is imported for the first time."""
    reporter = _REPORTERS.get(module)
    if reporter is None or module in sys.modules:
        yield
        return
    before = sys.modules.pop(reporter, None)
    sys.modules[reporter] = None  # type: ignore[assignment] # Python's own mark of what cannot be imported
    try:
        yield
    finally:
        del sys.modules[reporter]
        if before is not None:
            sys.modules[reporter] = before
