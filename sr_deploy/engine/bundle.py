"""The engines of a bundle: what is missing is built, what still holds is kept, what is stale is replaced."""

from __future__ import annotations

import contextlib
import logging
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sr_deploy.backends import builders
from sr_deploy.backends.registry import builder_names, get_builder
from sr_deploy.bundle import (
    Bundle,
    EngineOptions,
    EnginePlan,
    EngineRecord,
    GraphRecord,
    Profile,
    list_engine_backends,
)
from sr_deploy.bundle.engine_folder import EngineFolder
from sr_deploy.bundle.trust import (
    BUILT_HERE,
    EngineTrust,
    adopt_engine,
    register_bytes,
    register_engine,
    was_adopted,
    was_built_here,
    were_made_here,
)
from sr_deploy.bundle.verdict import Judgment
from sr_deploy.engine.build import build_engine
from sr_deploy.engine.place import EnginePlace, find_place
from sr_deploy.engine.request import EngineRequest, check_options, option_of
from sr_deploy.errors import BackendError, GraphError, InputError, MissingDependencyError, ShapeError
from sr_deploy.gpus import visible_gpus
from sr_deploy.graph.read import describe_layers
from sr_deploy.progress import OnProgress

_LOG = logging.getLogger(__name__)
_MATRIX_PRODUCTS = frozenset({"Einsum", "Gemm", "MatMul"})


@dataclass(frozen=True)
class NotBuilt:
    """An engine that this machine could not build. The bundle is complete without it."""

    backend: str
    """Name of the SDK, as in `tensorrt`."""
    reason: str
    """Why not, and what would help."""
    command: str
    """What to run, on the machine that will use the engine."""


@dataclass(frozen=True)
class BuildResult:
    """What `build_engines` did."""

    built: tuple[EngineRecord, ...] = ()
    kept: tuple[EngineRecord, ...] = ()
    """Engines that were there already and still hold."""
    removed: tuple[str, ...] = ()
    """Files of stale engines that new ones replaced."""
    not_built: tuple[NotBuilt, ...] = ()
    """What this machine could not build."""
    judgment: Judgment | None = None
    """What the bundle's certificate comes to with these engines; None for an ONNX file, which has none."""


def build_engines(
    bundle: Bundle | Path | str,
    backend: str | None = None,
    *,
    profiles: Sequence[Profile] = (),
    compute_capabilities: Sequence[str] = (),
    options: EngineOptions | None = None,
    on_progress: OnProgress | None = None,
    tolerant: bool = False,
    trust: EngineTrust = BUILT_HERE,
) -> BuildResult:
    """Build an engine for each graph of a bundle, or for any ONNX file.

    One that is there, still holds and was built here is kept, another one replaced. Each that is built is entered in
    this user's registry, so that runners open it. The folder is held meanwhile, by who calls this
    (`EngineFolder.writing`).

    Args:
        bundle: the deployment, its folder, or an ONNX file, whose engines go to `FILE.engines/` beside it.
        backend: which SDK; `auto`: each that can build here; None: the bundle's.
        profiles: shapes to take; empty: the bundle's, or the one shape of a graph that takes no other.
        compute_capabilities: what TensorRT-RTX builds for, as in `sm89`; empty: the bundle's, or else all it knows.
        options: settings of the builder; None: the bundle's.
        on_progress: told what the builder does and the seconds so far of each engine, at least once a second.
        tolerant: list in `not_built` what fails, instead of raising.
        trust: with `elsewhere`, engines that others built and that still hold are kept, and entered as if built here.

    Raises:
        BackendError: nothing can be built here, or the builder failed.
        InputError: no bundle, a profile that is impossible, a setting or compute capability that the SDK lacks.
    """
    place = find_place(bundle, profiles)
    backend = backend or place.plan.backend
    check_backend(backend)
    plan = _Plan(
        compute_capabilities=tuple(compute_capabilities),
        options=(options or place.plan).options(),
        on_progress=on_progress,
        trust=trust,
    )
    by_name = backend != "auto"
    total = BuildResult()
    for one in _wanted_backends(backend, compute_capabilities):
        reason = builders.why_not_buildable(one) or (None if by_name else _why_not_with(one, plan.options))
        if reason is None:
            try:
                total = _joined(total, _build_with(place, one, plan))
                continue
            except (BackendError, MissingDependencyError) as error:
                if not tolerant:
                    raise
                reason = str(error)
        command = _build_command(place, one, profiles, plan)
        total = _joined(total, BuildResult(not_built=(NotBuilt(one, reason, command),)))
    if total.not_built and not (total.built or total.kept or tolerant):
        raise BackendError("; ".join(f"no {item.backend} engine: {item.reason}" for item in total.not_built))
    return total


def check_backend(backend: str) -> None:
    """Refuse what no engines can be built for.

    Raises:
        InputError: the message lists those known.
    """
    known = list_engine_backends()
    if backend not in known:
        raise InputError(f"no engines are built with {backend!r}; --backend may be {', '.join(known)}")


def check_plan(plan: EnginePlan) -> None:
    """Refuse a plan that no machine could carry out; what this one lacks is said when it builds.

    Raises:
        InputError: an unknown backend, or a setting or compute capability that the one named does not have.
    """
    check_backend(plan.backend)
    if plan.backend not in builder_names():
        return
    with contextlib.suppress(BackendError):
        check_options(plan.backend, plan)
    if get_builder(plan.backend).list_capabilities is None:
        builders.resolve_compute_capabilities(plan.backend, plan.compute_capabilities)


@dataclass(frozen=True)
class _Plan:
    """What is asked for every engine."""

    compute_capabilities: tuple[str, ...]
    options: EngineOptions
    on_progress: OnProgress | None
    trust: EngineTrust


def _build_with(place: EnginePlace, backend: str, plan: _Plan) -> BuildResult:
    """One engine for each graph, with one SDK."""
    wanted = plan.compute_capabilities
    if not wanted and get_builder(backend).list_capabilities is not None:
        wanted = place.plan.compute_capabilities
    capabilities = builders.resolve_compute_capabilities(backend, wanted)
    check_options(backend, plan.options)
    built, kept, removed, not_built = [], [], [], []
    for path, graph in place.graphs:
        lacking = _find_lacking(path, graph, place.profiles, capabilities, by_name=bool(wanted))
        less = _describe_lacking(lacking)
        if lacking and lacking.keys() >= set(capabilities):
            command = _build_command(place, backend, (), replace(plan, compute_capabilities=()))
            not_built.append(NotBuilt(backend, f"{graph.precision}: {less}", command))
            continue
        request = EngineRequest(
            graph=path,
            graph_sha256=graph.sha256,
            precision=graph.precision,
            backend=backend,
            profiles=place.profiles,
            compute_capabilities=tuple(name for name in capabilities if name not in lacking),
            options=plan.options,
            planned_fp32=graph.planned_fp32,
        )
        present = place.folder.intact_engines()
        holding = [record for record in present if record.key == request.key()]
        if holding and _may_keep(holding, plan):
            kept += holding
            continue
        _LOG.info("build the %s:%s engine for %s%s", backend, graph.precision, request.target(), less and f"; {less}")
        built.append(_build_one(place.folder, request, plan))
        for record in present:
            if request.replaces(record):
                place.folder.remove_engine(record)
                removed.append(record.engine.file)
    return BuildResult(tuple(built), tuple(kept), tuple(removed), tuple(not_built))


def _describe_lacking(lacking: Mapping[str, str]) -> str:
    """As in `not for sm75 (Turing): no BF16`; empty for nothing."""
    names = {why: [name for name, one in lacking.items() if one == why] for why in lacking.values()}
    return "; ".join(f"not for {builders.describe_capabilities(found)}: {why}" for why, found in names.items())


def _find_lacking(
    path: Path, graph: GraphRecord, profiles: Sequence[Profile], capabilities: Collection[str], *, by_name: bool
) -> dict[str, str]:
    """Those of the compute capabilities, or the GPU here, that lack what a graph needs, and what that is.

    FP8 is told apart surely; what else may be lacking is tried where the target was asked for by name.
    """
    if graph.precision == "fp8":
        return builders.find_lacking("fp8", capabilities or [gpu.compute_capability for gpu in visible_gpus()[:1]])
    if by_name:
        return {}
    opt = profiles[0].opt
    try:
        layers = describe_layers(path, (opt.n, opt.h, opt.w))
    except (GraphError, ShapeError):  # the builder says what it does not take
        layers = ()
    matrices = any(one.flops and one.op in _MATRIX_PRODUCTS and one.precision == "fp32" for one in layers)
    return builders.find_lacking(graph.precision, capabilities, fp32_matrices=matrices)


def _may_keep(records: Sequence[EngineRecord], plan: _Plan) -> bool:
    """Whether all were built here, or the user trusts who built them: then they are entered too."""
    foreign = [record for record in records if not (was_built_here(record) or was_adopted(record))]
    if foreign and plan.trust.elsewhere:
        _enter(foreign, adopt_engine)
    return plan.trust.elsewhere or not foreign


def _build_one(folder: EngineFolder, request: EngineRequest, plan: _Plan) -> EngineRecord:
    """Build, and then add to the folder: a build that fails has touched nothing there."""
    cache = request.timing_cache_name()
    known = None if cache is None else folder.read_cache(cache)
    if known and not (plan.trust.elsewhere or were_made_here(known)):
        known = b""
    engine = build_engine(request, timing_cache=known, on_progress=plan.on_progress)
    folder.add_engine(engine.record, engine.engine)
    _enter([engine.record], register_engine)
    if cache is not None and engine.timing_cache is not None:
        folder.write_cache(cache, engine.timing_cache)
        register_bytes(engine.timing_cache)
    return engine.record


def _enter(records: Sequence[EngineRecord], enter: Callable[[EngineRecord], str]) -> None:
    for record in records:
        note = enter(record)
        if note:
            _LOG.warning("%s: %s", record.engine.file, note)


def _why_not_with(backend: str, options: EngineOptions) -> str | None:
    """Why an SDK that nobody asked for by name cannot build with the options."""
    try:
        check_options(backend, options)
    except (InputError, BackendError) as error:
        return str(error)
    return None


def _wanted_backends(backend: str, capabilities: Sequence[str]) -> tuple[str, ...]:
    if backend == "none":
        return ()
    if backend != "auto":
        return (backend,)
    # Others build for the GPU that is here alone.
    return tuple(one for one in builder_names() if not capabilities or get_builder(one).list_capabilities is not None)


def _build_command(place: EnginePlace, backend: str, profiles: Sequence[Profile], plan: _Plan) -> str:
    """What to run elsewhere for the same engines; what the bundle's manifest says need not be said again."""
    words = [word for profile in profiles for word in ("--profile", str(profile))]
    if get_builder(backend).list_capabilities is not None:
        words += [word for name in plan.compute_capabilities for word in ("--compute-capability", name)]
    for name, value in plan.options:
        if value not in (None, False, getattr(place.plan, name)):
            words += [option_of(name)] if value is True else [option_of(name), str(value)]
    return shlex.join(["sr-deploy", "build", str(place.path), "--backend", backend, *words])


def _joined(first: BuildResult, second: BuildResult) -> BuildResult:
    return BuildResult(
        built=first.built + second.built,
        kept=first.kept + second.kept,
        removed=first.removed + second.removed,
        not_built=first.not_built + second.not_built,
    )
