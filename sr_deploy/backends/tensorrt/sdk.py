"""Which TensorRT: the data-center SDK or TensorRT-RTX, one for each process. Nothing of NVIDIA's is imported before."""

from __future__ import annotations

import os
import sys
from types import ModuleType

from sr_deploy.deps import Package, require
from sr_deploy.errors import BackendError, MissingDependencyError

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
        raise BackendError(
            f"this process has chosen another TensorRT SDK than {backend}; use it in a process of its own"
        )
    os.environ[_SWITCH] = str(int(is_rtx))
    try:
        return require(package, f"the {backend} backend")
    except OSError as error:  # its Python part is there, a shared library that it opens is not
        raise MissingDependencyError(
            f"the {backend} backend needs {package.module}, which does not load ({error}); run: {package.install}"
        ) from error
