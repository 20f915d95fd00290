"""The engines of a bundle: what is missing is built, what still holds is kept, what is stale gives way."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sr_deploy import trt
from sr_deploy.backends import TENSORRT_BACKENDS, Backend
from sr_deploy.bundle import Bundle, EngineRecord, Profile, open_bundle
from sr_deploy.engine.build import build_engine
from sr_deploy.engine.profiles import check_profiles
from sr_deploy.engine.request import EngineRequest
from sr_deploy.errors import BackendError, InputError, MissingDependencyError

EngineBackend = Literal["auto", "tensorrt", "tensorrt-rtx", "none"]
"""Which SDK builds engines: each that is here, one by name, or none."""

_ENGINE_BACKENDS = ("auto", *TENSORRT_BACKENDS, "none")


@dataclass(frozen=True)
class NotBuilt:
    """An engine that this machine could not build. The bundle is complete without it."""

    backend: Backend
    """Which SDK."""
    reason: str
    """Why not, and what would help."""
    command: str
    """What to run, on the machine that will use the engine."""


@dataclass(frozen=True)
class BuildResult:
    """What `build_engines` did."""

    built: tuple[EngineRecord, ...] = ()
    """Engines built now."""
    kept: tuple[EngineRecord, ...] = ()
    """Engines that were there already and still hold."""
    removed: tuple[str, ...] = ()
    """Files of stale engines that gave way to new ones."""
    not_built: tuple[NotBuilt, ...] = ()
    """What this machine could not build."""


def build_engines(
    bundle: Bundle | Path | str,
    backend: EngineBackend = "auto",
    *,
    profiles: Sequence[Profile] = (),
    compute_capabilities: Sequence[str] = (),
    on_stage: Callable[[str], None] | None = None,
    tolerant: bool = False,
) -> BuildResult:
    """Build an engine for each graph of a bundle. One that is there and still holds is kept, a stale one replaced.

    Args:
        bundle: the deployment, or its folder.
        backend: which SDK; `auto`: each that can build here.
        profiles: shapes to take; empty: the bundle's.
        compute_capabilities: what TensorRT-RTX builds for, as in `sm89`; empty: all that it knows.
        on_stage: told what is being done, one line each.
        tolerant: list in `not_built` what fails, instead of raising.

    Raises:
        BackendError: nothing can be built here, or the builder failed.
        InputError: no bundle, a compute capability or a profile that is impossible.
    """
    check_backend(backend)
    if not isinstance(bundle, Bundle):
        bundle = open_bundle(Path(bundle))
    tell = on_stage or (lambda _: None)
    shapes = tuple(profiles) or bundle.manifest.profiles
    check_profiles(shapes, bundle.manifest.arch)
    total = BuildResult()
    if compute_capabilities and backend == "auto":
        backend = "tensorrt-rtx"  # the other one builds for its own GPU alone
    for one in _wanted_backends(backend):
        command = _build_command(bundle.path, one, profiles)
        reason = trt.why_not_buildable(one)
        if reason is None:
            try:
                total = _joined(total, _build_with(bundle, one, shapes, tuple(compute_capabilities), tell))
                continue
            except (BackendError, MissingDependencyError) as error:
                if not tolerant:
                    raise
                reason = str(error)
        total = _joined(total, BuildResult(not_built=(NotBuilt(one, reason, command),)))
    if total.not_built and not (total.built or total.kept or tolerant):
        raise BackendError("; ".join(f"no {item.backend} engine: {item.reason}" for item in total.not_built))
    return total


def check_backend(backend: str) -> None:
    """Refuse what is no `EngineBackend`.

    Raises:
        InputError: the message lists those known.
    """
    if backend not in _ENGINE_BACKENDS:
        raise InputError(f"no engines are built with {backend!r}; --backend may be {', '.join(_ENGINE_BACKENDS)}")


def _build_with(
    bundle: Bundle,
    backend: Backend,
    profiles: tuple[Profile, ...],
    compute_capabilities: tuple[str, ...],
    tell: Callable[[str], None],
) -> BuildResult:
    """One engine for each graph of the bundle, with one SDK."""
    capabilities = trt.resolve_compute_capabilities(backend, compute_capabilities)
    built, kept, removed = [], [], []
    for graph in bundle.manifest.graphs:
        request = EngineRequest(
            graph=bundle.path / graph.file,
            graph_sha256=graph.sha256,
            precision=graph.precision,
            backend=backend,
            profiles=profiles,
            compute_capabilities=capabilities,
        )
        present = bundle.intact_engines()
        holding = [record for record in present if record.key == request.key()]
        if holding:
            kept += holding
            continue
        tell(f"build the {backend}:{graph.precision} engine for {request.target()}")
        engine = build_engine(request)
        bundle.add_engine(engine.record, engine.engine)
        built.append(engine.record)
        for record in present:
            if request.replaces(record):
                bundle.remove_engine(record)
                removed.append(record.engine.file)
    return BuildResult(tuple(built), tuple(kept), tuple(removed))


def _wanted_backends(backend: EngineBackend) -> tuple[Backend, ...]:
    if backend == "none":
        return ()
    return TENSORRT_BACKENDS if backend == "auto" else (backend,)


def _build_command(path: Path, backend: Backend, profiles: Sequence[Profile]) -> str:
    options = [word for profile in profiles for word in ("--profile", str(profile))]
    return shlex.join(["sr-deploy", "build", str(path), "--backend", backend, *options])


def _joined(first: BuildResult, second: BuildResult) -> BuildResult:
    return BuildResult(
        built=first.built + second.built,
        kept=first.kept + second.kept,
        removed=first.removed + second.removed,
        not_built=first.not_built + second.not_built,
    )
