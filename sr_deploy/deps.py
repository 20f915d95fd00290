"""Optional packages: imported when needed, and named with the command that installs them when absent."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from types import ModuleType

from sr_deploy.errors import MissingDependencyError

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
    "tensorboard": ("tensorboard", "pip install 'sr-deploy[train]'"),
    "matplotlib": ("matplotlib", "pip install 'sr-deploy[plots]'"),
}


def is_installed(module: str) -> bool:
    """Whether `module` can be found, without importing it."""
    return importlib.util.find_spec(module) is not None


def install_command(module: str) -> str:
    """The command that brings `module`."""
    return _INSTALL[module][1]


def installed_version(module: str) -> str | None:
    """Version of the distribution that brings `module`, or None if it is absent. Nothing is imported."""
    distribution = _INSTALL[module][0]
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def require(module: str, purpose: str) -> ModuleType:
    """Import `module`, or say what is missing.

    Args:
        module: import name, one of those known here.
        purpose: what it is needed for, as in "training shows its curves in TensorBoard with it".

    Raises:
        MissingDependencyError: absent, or present and broken; the message has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        found = "is not installed" if not is_installed(module) else f"does not load ({error})"
        raise MissingDependencyError(
            f"{purpose} needs {module}, which {found}; run: {install_command(module)}"
        ) from error
