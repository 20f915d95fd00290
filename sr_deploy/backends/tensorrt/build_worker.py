"""The process in which an engine is built: `python -m` this module, with a job as JSON on stdin.

A builder that crashes takes this process with it and nothing else, and the choice of SDK, which holds for a process's
whole life, is made anew each time.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from sr_deploy.backends import Precision
from sr_deploy.backends.registry import get_builder
from sr_deploy.backends.tensorrt.explain import FAILURE_MARK, describe_parse_errors
from sr_deploy.backends.tensorrt.inspection import inspect_engine
from sr_deploy.backends.tensorrt.network import count_types, list_precisions
from sr_deploy.backends.tensorrt.progress import make_monitor, tell_stage
from sr_deploy.bundle import Profile, Shape
from sr_deploy.engine.precision import judge_layers
from sr_deploy.engine.request import EngineRequest
from sr_deploy.errors import BackendError, one_line
from sr_deploy.graph.load import read_without_attention

_SHOWN = 3
ATTACHED = "--attached"
"""Word on the command line of a worker that is to end when its stdin does."""


class BuildJob(BaseModel, frozen=True, extra="forbid"):
    """What the worker is told."""

    request: EngineRequest
    engine: Path
    """Where to write the engine."""
    report: Path
    """Where to write the report, after the engine."""
    timing_cache: Path | None = None
    """Timings of kernels: read if it is there, and written with what was learnt. None: the SDK keeps none."""


class BuildReport(BaseModel, frozen=True, extra="forbid"):
    """What the worker answers."""

    layer_precisions: dict[str, int]
    """Layers of the parsed network by type of their first output."""
    convolution_precisions: dict[str, int]
    """How many convolutions compute in each type."""
    declared: dict[str, Precision]
    """Precision of each layer that multiplies and adds, by its name."""
    inspected: str
    """What the built engine says of its layers, or why it was not asked."""
    build_seconds: float
    """Parsing and building, without starting the process."""


def build(job: BuildJob) -> BuildReport:
    """Parse, check, build and write one engine, in this process."""
    request = job.request
    tell_stage("loading the SDK")
    sdk = get_builder(request.backend).select_sdk()
    from polygraphy.backend.trt import engine_bytes_from_network

    started = time.perf_counter()
    tell_stage("parsing the graph")
    builder, network, parser = parse_graph(sdk, request.graph)
    layers, convolutions = count_types(sdk, network)
    declared = list_precisions(sdk, network)
    check_precision(request.precision, declared, request.planned_fp32)
    config = make_config(sdk, job, network.get_input(0))
    cache = None if job.timing_cache is None else str(job.timing_cache)
    engine = bytes(engine_bytes_from_network((builder, network, parser), config=config, save_timing_cache=cache))
    seconds = time.perf_counter() - started
    job.engine.write_bytes(engine)
    tell_stage("inspecting the engine")
    return BuildReport(
        layer_precisions=layers,
        convolution_precisions=convolutions,
        declared=declared,
        inspected=inspect_engine(sdk, engine),
        build_seconds=round(seconds, 3),
    )


# The SDK's own objects have no types for a checker: the bindings are compiled and optional.
def parse_graph(sdk: ModuleType, graph: Path) -> Any:  # noqa: ANN401
    """Builder, strongly typed network and parser of a graph.

    Raises:
        BackendError: the parser does not take a node, named in the message, or the graph is not one image in, one out.
    """
    from polygraphy.backend.trt import network_from_onnx_bytes, network_from_onnx_path
    from polygraphy.exception import PolygraphyException

    written_out = read_without_attention(graph)
    try:
        if written_out is None:
            parsed = network_from_onnx_path(str(graph), strongly_typed=True)
        else:
            parsed = network_from_onnx_bytes(written_out, strongly_typed=True)
    except PolygraphyException as error:
        raise BackendError(describe_parse_errors(sdk, graph) or one_line(error, None)) from error
    network = parsed[1]
    if network.num_inputs != 1 or network.num_outputs != 1:
        seen = f"{network.num_inputs} inputs and {network.num_outputs} outputs"
        raise BackendError(f"the parser found {seen}, not one image in and one out; is it a whole ONNX file?")
    return parsed


def make_config(sdk: ModuleType, job: BuildJob, graph_input: Any) -> Any:  # noqa: ANN401
    """Polygraphy's configuration of a build: profiles, every option, TF32 off unless asked for, capabilities."""
    from polygraphy.backend.trt import CreateConfig, PostprocessConfig

    request, options = job.request, job.request.options

    def finish(builder: object, network: object, config: Any) -> None:  # noqa: ANN401
        names = request.compute_capabilities
        if names:
            config.num_compute_capabilities = len(names)
        for index, name in enumerate(names):
            if not config.set_compute_capability(sdk.ComputeCapability.__members__[name.upper()], index):
                raise BackendError(f"{request.backend} refused compute capability {name}")
        _check_applied(sdk, config, request)

    workspace = options.workspace_gib
    cache = job.timing_cache
    # CreateConfig, not CreateConfigRTX: the latter leaves TF32 on and cannot be told otherwise.
    config = CreateConfig(
        tf32=options.tf32,
        profiles=[to_sdk_profile(sdk, profile, graph_input) for profile in request.profiles],
        builder_optimization_level=options.optimization_level,
        memory_pool_limits=None if workspace is None else {sdk.MemoryPoolType.WORKSPACE: round(workspace * 2**30)},
        version_compatible=options.version_compatible,
        hardware_compatibility_level=sdk.HardwareCompatibilityLevel.AMPERE_PLUS
        if options.hardware_compatible
        else None,
        strip_plan=options.strip_weights,
        refittable=options.refittable,
        load_timing_cache=str(cache) if cache is not None and cache.is_file() else None,
        progress_monitor=make_monitor(sdk),
    )
    return PostprocessConfig(config, finish)


def to_sdk_profile(sdk: ModuleType, profile: Profile, graph_input: Any) -> Any:  # noqa: ANN401
    """Polygraphy's form of a profile: the input's name, its channels, and its order of axes."""
    from polygraphy.backend.trt import Profile as SdkProfile

    channels_last = graph_input.dtype == sdk.DataType.UINT8  # integer images are N x H x W x C
    channels = graph_input.shape[3 if channels_last else 1]

    def to_axes(shape: Shape) -> tuple[int, int, int, int]:
        return (shape.n, shape.h, shape.w, channels) if channels_last else (shape.n, channels, shape.h, shape.w)

    return SdkProfile().add(graph_input.name, to_axes(profile.min), to_axes(profile.opt), to_axes(profile.max))


def _check_applied(sdk: ModuleType, config: Any, request: EngineRequest) -> None:  # noqa: ANN401
    """What the configuration says of itself, against what was asked: a setting that did not take is an error."""
    options, flags = request.options, sdk.BuilderFlag
    asked = {
        "profiles": (config.num_optimization_profiles, len(request.profiles)),
        "tf32": (bool(config.get_flag(flags.TF32)), options.tf32),
        "version_compatible": (bool(config.get_flag(flags.VERSION_COMPATIBLE)), options.version_compatible),
        "strip_weights": (bool(config.get_flag(flags.STRIP_PLAN)), options.strip_weights),
        "refittable": (bool(config.get_flag(flags.REFIT)), options.refittable),
    }
    if options.optimization_level is not None:
        asked["optimization_level"] = (config.builder_optimization_level, options.optimization_level)
    if options.workspace_gib is not None:
        limit = config.get_memory_pool_limit(sdk.MemoryPoolType.WORKSPACE)
        asked["workspace_gib"] = (limit, round(options.workspace_gib * 2**30))
    for name, (seen, wanted) in asked.items():
        if seen != wanted:
            raise BackendError(f"{request.backend} did not take {name}={wanted}; its configuration says {seen}")


def check_precision(precision: Precision, declared: dict[str, Precision], planned_fp32: tuple[str, ...]) -> None:
    """Refuse a graph with layers of another precision than it was given as, but for those planned so.

    Raises:
        BackendError: there are others; the message names them.
    """
    unplanned = judge_layers(declared, precision, planned_fp32)
    if unplanned:
        more = f", and {len(unplanned) - _SHOWN} more" if len(unplanned) > _SHOWN else ""
        raise BackendError(f"layers in another precision than planned: {'; '.join(unplanned[:_SHOWN])}{more}")


def main() -> int:
    """Read a job from stdin, do it, and leave engine and report where it says."""
    logging.basicConfig(format="%(message)s")  # warnings go to whoever reads this process's stderr
    job = BuildJob.model_validate_json(sys.stdin.readline())
    if ATTACHED in sys.argv:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        report = build(job)
    except Exception as error:  # noqa: BLE001 - the process ends here, whatever it was
        line = one_line(error, None) or type(error).__name__
        print(f"{FAILURE_MARK}{line}", file=sys.stderr, flush=True)  # noqa: T201 - stderr is the way back
        return 1
    job.report.write_text(report.model_dump_json(), encoding="utf-8")
    return 0


def _end_with_stdin() -> None:
    """Whoever started this process holds the other end: when that was killed, nobody wants the engine any more."""
    while os.read(sys.stdin.fileno(), 1):  # not `sys.stdin.read`, whose lock would be held when Python ends
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
