"""TensorRT: engines for NVIDIA GPUs, built on the GPU that will run them. TensorRT-RTX shares all but the SDK."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sr_deploy.backends.choice import PRECISIONS, BackendChoice, Precision
from sr_deploy.backends.description import Auto, Backend, EngineBuilder, RunOptions, Variant
from sr_deploy.backends.tensorrt.sdk import select_sdk
from sr_deploy.backends.torch import PACKAGE as TORCH
from sr_deploy.backends.torch import why_not_eager
from sr_deploy.deps import Package

if TYPE_CHECKING:
    from sr_deploy.engine.build import BuiltEngine
    from sr_deploy.engine.request import EngineRequest
    from sr_deploy.model import Model
    from sr_deploy.progress import OnProgress
    from sr_deploy.runners.protocol import Runner

PACKAGE = Package(
    "tensorrt",
    "pip install 'sr-deploy[tensorrt]' with NVIDIA's package index (see docs/backends.md)",
    ("tensorrt-cu13",),
)
_ON_GPU: dict[Precision, Precision] = {precision: precision for precision in PRECISIONS}
_REDUCED: tuple[Precision, ...] = ("int8", "fp8", "fp16", "bf16")


def _open(model: Model, choice: BackendChoice, options: RunOptions) -> Runner:
    from sr_deploy.backends.tensorrt.runner import TensorRtRunner

    return TensorRtRunner(model, choice, options.device, cuda_graphs=options.variant != "eager")


def build_engine(request: EngineRequest, timing_cache: bytes | None, on_progress: OnProgress) -> BuiltEngine:
    """Build an engine with the SDK of `request.backend`, in a process of its own."""
    from sr_deploy.backends.tensorrt.build_process import build_in_process

    return build_in_process(request, timing_cache, on_progress)


def describe_sdk(
    name: str, package: Package, builder: EngineBuilder, *, order: int, triton: str | None = None
) -> Backend:
    """The backend that runs engines of one of the two SDKs."""
    return Backend(
        name=name,
        package=package,
        artifact="engine",
        precisions={"cuda": _ON_GPU},
        open=_open,
        order=order,
        describe_runs=lambda: ("an engine built for this GPU",),
        auto={"cuda": Auto(0, tuple(BackendChoice(name, precision) for precision in _REDUCED))},
        variants=(Variant("fixed", makes_artifact=True), Variant("eager", why_not=why_not_eager)),
        is_on_device=True,
        loads=TORCH,  # which engines run on: its import is what takes time
        builder=builder,
        triton=triton,
    )


BACKEND = describe_sdk(
    "tensorrt",
    PACKAGE,
    EngineBuilder(
        build=build_engine,
        select_sdk=partial(select_sdk, "tensorrt", PACKAGE, is_rtx=False),
        tag=b"ftrt",
        keeps_timings=True,
    ),
    order=3,
    triton="tensorrt",
)
