"""TensorRT-RTX: engines for NVIDIA's RTX GPUs, built without one and finished on the GPU when they are opened."""

from __future__ import annotations

from functools import partial

from sr_deploy.backends.description import Difference, EngineBuilder
from sr_deploy.backends.tensorrt import build_engine, describe_sdk
from sr_deploy.backends.tensorrt.sdk import select_sdk
from sr_deploy.deps import Package, require

PACKAGE = Package("tensorrt_rtx", "pip install 'sr-deploy[rtx]'", ("tensorrt-rtx-cu13",))
_NO_NAMES = ("NONE", "CURRENT")


def _list_capabilities() -> tuple[str, ...]:
    sdk = require(PACKAGE, "the tensorrt-rtx backend")
    return tuple(name.lower() for name in sdk.ComputeCapability.__members__ if name not in _NO_NAMES)


def _find_difference(engine: bytes, due: bytes) -> Difference | None:
    from sr_deploy.backends.tensorrt.equality import find_difference

    return find_difference(engine, due)


BACKEND = describe_sdk(
    "tensorrt-rtx",
    PACKAGE,
    EngineBuilder(
        build=build_engine,
        select_sdk=partial(select_sdk, "tensorrt-rtx", PACKAGE, is_rtx=True),
        tag=b"vtrt",
        list_capabilities=_list_capabilities,
        # As its bindings and its builder say (1.7): the calls exist, warn that they do nothing, or miss a library.
        absent_options={
            "version_compatible": "its engines run on the release that built them alone; build them again, it takes "
            "seconds",
            "hardware_compatible": "name the GPUs with --compute-capability instead; left out, it builds for all that "
            "it knows",
        },
        options_on_gpu=("strip_weights", "refittable"),
        # `keeps_timings` is not set: it times no kernels when it builds, and has a timing cache in name only.
        find_difference=_find_difference,
        states_length=True,
    ),
    order=4,
)
