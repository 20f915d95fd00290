"""Building one engine: what is asked is checked, then whoever builds for that backend is asked."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from sr_deploy.backends import builders
from sr_deploy.backends.registry import get_builder
from sr_deploy.bundle import EngineRecord
from sr_deploy.engine.request import EngineRequest, check_options
from sr_deploy.errors import BackendError
from sr_deploy.files import require_file
from sr_deploy.gpus import visible_gpus
from sr_deploy.progress import OnProgress


@dataclass(frozen=True)
class BuiltEngine:
    """An engine and all that is recorded of it."""

    record: EngineRecord
    """What it was built from, with and for."""
    engine: bytes
    timing_cache: bytes | None = None
    """What the builder learnt of kernels' times; None where it keeps nothing."""


def build_engine(
    request: EngineRequest, *, timing_cache: bytes | None = None, on_progress: OnProgress | None = None
) -> BuiltEngine:
    """Build one engine.

    Args:
        request: what to build.
        timing_cache: what earlier builds learnt, empty at first; None: keep nothing.
        on_progress: told what the builder does and the seconds so far, at least once a second.

    Raises:
        BackendError: this machine cannot build it, the builder refused the graph or a shape, ran out of memory, or
            crashed; the message says which, with the builder's own last words.
        InputError: the graph is missing, or the SDK has no such setting or does not build for such a GPU.
        MissingDependencyError: the SDK is not installed.
    """
    reason = builders.why_not_buildable(request.backend)
    if reason is not None:
        raise BackendError(f"cannot build a {request.backend} engine here: {reason}")
    check_options(request.backend, request.options)
    if request.compute_capabilities:
        builders.resolve_compute_capabilities(request.backend, request.compute_capabilities)
    require_file(request.graph, "an ONNX graph")
    return get_builder(request.backend).build(request, timing_cache, on_progress or (lambda _: None))


def describe_builder() -> str:
    """System, processor and GPU of this machine, as records of engines say it."""
    gpus = visible_gpus()
    return f"{platform.system()} {platform.machine()} {f'with {gpus[0].name}' if gpus else 'without a GPU'}"
