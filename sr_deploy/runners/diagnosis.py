"""What this machine can run and build, looked at without a model. Libraries that are asked are imported."""

from __future__ import annotations

import shutil
from pathlib import Path

from sr_deploy import trt
from sr_deploy.backends import BACKENDS, TENSORRT_BACKENDS, Backend, BackendChoice
from sr_deploy.cache import cache_folder, count_kept
from sr_deploy.config import Document
from sr_deploy.deps import install_command, installed_version, is_installed
from sr_deploy.errors import MissingDependencyError, OutputError
from sr_deploy.gpus import visible_gpus
from sr_deploy.measure.machine import Machine, describe_machine
from sr_deploy.runners.choose import MODULES
from sr_deploy.runners.fastest import KIND

# module -> what it is for
_PACKAGES = {
    "onnx": "exporting and reading graphs",
    "onnxscript": "exporting graphs",
    "polygraphy": "building TensorRT engines",
    "safetensors": "reading and writing weights",
    "pyvips": "reading and writing pictures",
    "av": "reading and writing video",
    "skimage": "photographs for the demo, for verify and for bench",
    "tensorboard": "curves of a training run",
}


class BackendDiagnosis(Document):
    """One backend on this machine."""

    name: Backend
    """Name of the backend."""
    version: str | None
    """Installed version; None if absent."""
    runs: tuple[str, ...]
    """Devices and precisions that run here, as in `cpu fp32`; empty if none."""
    why_not_run: str | None
    """Why it runs nowhere here, and what mends it."""
    builds: bool | None
    """Whether it builds engines here; None for a backend that has none."""
    why_not_build: str | None
    """Why not, and what mends it."""


class PackageDiagnosis(Document):
    """One package."""

    name: str
    """Its import name."""
    version: str | None
    """Installed version; None if absent."""
    purpose: str
    """What it is for."""
    install: str | None
    """The command that brings it, if it is absent."""


class Diagnosis(Document):
    """What `sr-deploy doctor` finds."""

    machine: Machine
    """Processor, memory, GPUs, system."""
    folder: str
    """Where free space was looked at: the current folder."""
    free_disk_gib: float
    """Free space there."""
    cache: str
    """Folder of what is measured once and kept; remove it, and all is measured again."""
    remembered_choices: int
    """What `--backend auto` remembers there, one for each network, number of threads and set of versions."""
    backends: tuple[BackendDiagnosis, ...]
    """In the order of `BACKENDS`."""
    packages: tuple[PackageDiagnosis, ...]
    """Optional and needed ones."""


def diagnose_machine() -> Diagnosis:
    """Look at everything. Takes about two seconds: torch has to be asked about its GPU."""
    folder = Path.cwd()
    return Diagnosis(
        machine=describe_machine(),
        folder=str(folder),
        free_disk_gib=round(shutil.disk_usage(folder).free / 2**30, 1),
        cache=_name_cache(),
        remembered_choices=count_kept(KIND),
        backends=tuple(_diagnose_backend(name) for name in BACKENDS),
        packages=tuple(_diagnose_package(name, purpose) for name, purpose in _PACKAGES.items()),
    )


def _name_cache() -> str:
    try:
        return str(cache_folder())
    except OutputError as error:
        return f"none: {error}"


def _diagnose_package(name: str, purpose: str) -> PackageDiagnosis:
    present = is_installed(name)
    return PackageDiagnosis(
        name=name,
        version=installed_version(name) if present else None,
        purpose=purpose,
        install=None if present else install_command(name),
    )


def _diagnose_backend(name: Backend) -> BackendDiagnosis:
    runs, why_not_run = _what_runs(name)
    why_not_build = trt.why_not_buildable(name) if name in TENSORRT_BACKENDS else None
    return BackendDiagnosis(
        name=name,
        version=installed_version(MODULES[name]),
        runs=runs,
        why_not_run=why_not_run,
        builds=why_not_build is None if name in TENSORRT_BACKENDS else None,
        why_not_build=why_not_build,
    )


def _what_runs(name: Backend) -> tuple[tuple[str, ...], str | None]:
    if not is_installed(MODULES[name]):
        return (), f"{MODULES[name]} is not installed; run: {install_command(MODULES[name])}"
    try:
        if name == "torch":
            return _torch_runs(), None
        if name == "onnxruntime":
            return _onnxruntime_runs(), None
        if name == "openvino":
            return _openvino_runs(), None
    except MissingDependencyError as error:
        return (), str(error)
    if not visible_gpus():
        return (), "it needs an NVIDIA GPU, and this machine shows none; use a machine that has one"
    return ("an engine built for this GPU",), None


def _torch_runs() -> tuple[str, ...]:
    from sr_deploy.deps import require

    torch = require("torch", "the torch backend")
    gpus = [f"cuda:{index} fp32 bf16 fp16" for index in range(torch.cuda.device_count())]
    return ("cpu fp32 bf16 fp16 (slow)", *gpus)


def _onnxruntime_runs() -> tuple[str, ...]:
    from sr_deploy.runners.onnxruntime_runner import why_no_cuda_provider

    cuda = why_no_cuda_provider()
    return (
        "cpu fp32 fp16 (computed in fp32) int8 fp8 (computed in fp32)",
        *(["cuda:0 fp32 fp16"] if cuda is None else []),
    )


def _openvino_runs() -> tuple[str, ...]:
    from sr_deploy.runners.openvino_runner import why_not_computed

    in_bf16 = why_not_computed(BackendChoice("openvino", "bf16")) is None
    mixed = " int8+bf16" if in_bf16 else ""
    return (f"cpu fp32{' bf16' if in_bf16 else ''} int8{mixed} fp8 (computed in fp32)",)
