"""What this machine can run and build, looked at without a model. Libraries that are asked are imported."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from sr_deploy.backends import builders
from sr_deploy.backends.description import Backend
from sr_deploy.backends.registry import list_backends
from sr_deploy.cache import cache_folder, count_kept
from sr_deploy.config import Document
from sr_deploy.deps import Package, installed_version, list_packages, why_absent
from sr_deploy.errors import MissingDependencyError, OutputError
from sr_deploy.gpus import visible_gpus
from sr_deploy.measure.machine import Machine, describe_machine
from sr_deploy.runners.fastest import KIND


class BackendDiagnosis(Document):
    """One backend on this machine."""

    name: str
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
    """Under which it is imported."""
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
    cache: str
    """Folder of what is measured once and kept; remove it, and all is measured again."""
    remembered_choices: int
    """What `--backend auto` remembers there, one for each network, number of threads and set of versions."""
    backends: tuple[BackendDiagnosis, ...]
    """In the order of lists, the reference first."""
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
        backends=tuple(map(_diagnose_backend, list_backends())),
        packages=tuple(map(_diagnose_package, list_packages())),
    )


def _name_cache() -> str:
    try:
        return str(cache_folder())
    except OutputError as error:
        return f"none: {error}"


def _diagnose_package(package: Package) -> PackageDiagnosis:
    absent = why_absent(package) is not None
    return PackageDiagnosis(
        name=package.module,
        version=None if absent else installed_version(package),
        purpose=package.purpose,
        install=package.install if absent else None,
    )


def _diagnose_backend(backend: Backend) -> BackendDiagnosis:
    runs, why_not_run = _find_runs(backend)
    why_not_build = None if backend.builder is None else builders.why_not_buildable(backend.name)
    return BackendDiagnosis(
        name=backend.name,
        version=installed_version(backend.package),
        runs=runs,
        why_not_run=why_not_run,
        builds=None if backend.builder is None else why_not_build is None,
        why_not_build=why_not_build,
    )


def _find_runs(backend: Backend) -> tuple[tuple[str, ...], str | None]:
    absent = why_absent(backend.package)
    if absent is not None:
        return (), absent
    if backend.artifact == "engine" and not visible_gpus():
        return (), "it needs an NVIDIA GPU, and this machine shows none; use a machine that has one"
    if backend.describe_runs is None:
        return (f"cpu {' '.join(_describe_precisions(backend))}",), None
    try:
        return backend.describe_runs(), None
    except MissingDependencyError as error:
        return (), str(error)


def _describe_precisions(backend: Backend) -> Iterator[str]:
    for precision, computed in backend.precisions.get("cpu", {}).items():
        yield precision if precision == computed else f"{precision} (computed in {computed})"
