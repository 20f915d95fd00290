"""What builders of engines can build on this machine, and for which GPUs. No SDK is imported before it is needed."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sr_deploy import deps
from sr_deploy.backends import Precision
from sr_deploy.backends.registry import builder_names, get_backend, get_builder
from sr_deploy.errors import BackendError, InputError
from sr_deploy.gpus import Gpu, plain_capability, visible_gpus

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


def sdk_version(backend: str) -> str | None:
    """Version of the installed SDK, or None. Nothing is imported.

    Raises:
        InputError: no engines are built for that backend.
    """
    get_builder(backend)
    return deps.installed_version(get_backend(backend).package)


def compute_capabilities(backend: str) -> tuple[str, ...]:
    """What the SDK can build for without a GPU, as in `("sm75", "sm86")`; empty where it builds for its own GPU alone.

    Raises:
        InputError: no engines are built for that backend.
        MissingDependencyError: the SDK is not installed.
    """
    list_capabilities = get_builder(backend).list_capabilities
    return () if list_capabilities is None else list_capabilities()


def resolve_compute_capabilities(backend: str, wanted: tuple[str, ...]) -> tuple[str, ...]:
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
                f"for other GPUs there is the backend {_name_local()}, on the machine that has one"
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


def check_gpu(backend: str, gpu: Gpu) -> None:
    """Refuse a GPU that no engine of the SDK runs on.

    Raises:
        BackendError: the message lists those it runs on.
        MissingDependencyError: the SDK is not installed.
    """
    known = compute_capabilities(backend)
    if known and gpu.compute_capability not in known:
        raise BackendError(
            f"{backend} does not run on {gpu.name} ({gpu.compute_capability}); it runs on "
            f"{describe_capabilities(known)}; for this GPU there is the backend {_name_local()}"
        )


def describe_target(backend: str, capabilities: tuple[str, ...]) -> str:
    """What an engine is built for, as its record and its key say it.

    Args:
        backend: whose engine.
        capabilities: resolved ones; empty for a builder that builds for the GPU that is here alone.

    Raises:
        BackendError: such a builder, and there is no GPU.
    """
    if get_builder(backend).list_capabilities is not None:
        return "+".join(capabilities)
    gpus = visible_gpus()
    if not gpus:
        raise BackendError(_NO_GPU)
    return gpus[0].name


def why_not_buildable(backend: str) -> str | None:
    """Why this machine cannot build engines with `backend`, and how to fix it; None if it can."""
    absent = deps.why_absent(get_backend(backend).package)
    if absent is None and get_builder(backend).list_capabilities is None and not visible_gpus():
        return _NO_GPU
    return absent


_NO_GPU = (
    "TensorRT builds on the GPU that will run the engine, and no NVIDIA GPU is visible here (the driver shows none)"
)


def _name_local() -> str:
    """The backends whose engines are built for the GPU that is here."""
    return " or ".join(name for name in builder_names() if get_builder(name).list_capabilities is None)
