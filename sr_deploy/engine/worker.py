"""The process in which an engine is built: `python -m sr_deploy.engine.worker`, a job as JSON on stdin.

A builder that crashes takes this process with it and nothing else, and the choice of SDK, which holds for a process's
whole life, is made anew each time.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ConfigDict

from sr_deploy import trt
from sr_deploy.backends import Precision
from sr_deploy.bundle import Profile, Shape
from sr_deploy.engine.request import EngineRequest
from sr_deploy.errors import BackendError

FAILURE_MARK = "sr-deploy-failure: "
"""Begins the line of stderr that says why a build failed."""

_ENGINE_TYPES: dict[Precision, str] = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}


class BuildJob(BaseModel):
    """What the worker is told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request: EngineRequest
    """What to build."""
    engine: Path
    """Where to write the engine."""
    report: Path
    """Where to write the report, after the engine."""


class BuildReport(BaseModel):
    """What the worker answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer_precisions: dict[str, int]
    """Layers of the parsed network by type of their first output."""
    convolution_precisions: dict[str, int]
    """Convolutions among them."""
    inspected: str
    """What the built engine says of its layers, or why it was not asked."""
    build_seconds: float
    """Parsing and building, without starting the process."""


def build(job: BuildJob) -> BuildReport:
    """Parse, check, build and write one engine, in this process."""
    request = job.request
    sdk = trt.select_sdk(request.backend)
    from polygraphy.backend.trt import engine_bytes_from_network, network_from_onnx_path

    started = time.perf_counter()
    builder, network, parser = network_from_onnx_path(str(request.graph), strongly_typed=True)
    if network.num_inputs != 1 or network.num_outputs != 1:
        seen = f"{network.num_inputs} inputs and {network.num_outputs} outputs"
        raise BackendError(f"the parser found {seen}, not one image in and one out; is it a whole ONNX file?")
    layers, convolutions = count_precisions(sdk, network)
    check_precision(request.precision, convolutions)
    config = make_config(sdk, request, network.get_input(0))
    engine = bytes(engine_bytes_from_network((builder, network, parser), config=config))
    seconds = time.perf_counter() - started
    job.engine.write_bytes(engine)
    return BuildReport(
        layer_precisions=layers,
        convolution_precisions=convolutions,
        inspected=inspect_engine(sdk, engine),
        build_seconds=round(seconds, 3),
    )


# The SDK's own objects have no types for a checker: the bindings are compiled and optional.
def make_config(sdk: ModuleType, request: EngineRequest, graph_input: Any) -> Any:  # noqa: ANN401
    """Polygraphy's configuration of a build: profiles, TF32 off unless asked for, compute capabilities."""
    from polygraphy.backend.trt import CreateConfig, PostprocessConfig
    from polygraphy.backend.trt import Profile as SdkProfile

    channels_last = graph_input.dtype == sdk.DataType.UINT8  # ends of whole numbers are N x H x W x C
    channels = graph_input.shape[3 if channels_last else 1]

    def to_axes(shape: Shape) -> tuple[int, int, int, int]:
        return (shape.n, shape.h, shape.w, channels) if channels_last else (shape.n, channels, shape.h, shape.w)

    def to_sdk(profile: Profile) -> Any:  # noqa: ANN401
        shapes = (to_axes(profile.min), to_axes(profile.opt), to_axes(profile.max))
        return SdkProfile().add(graph_input.name, *shapes)

    def set_capabilities(builder: object, network: object, config: Any) -> None:  # noqa: ANN401
        names = request.compute_capabilities
        if not names:
            return
        config.num_compute_capabilities = len(names)
        for index, name in enumerate(names):
            if not config.set_compute_capability(sdk.ComputeCapability.__members__[name.upper()], index):
                raise BackendError(f"{request.backend} refused compute capability {name}")

    # CreateConfig, not CreateConfigRTX: the latter leaves TF32 on and cannot be told otherwise.
    config = CreateConfig(
        tf32=request.flags.get("tf32") == "on", profiles=[to_sdk(profile) for profile in request.profiles]
    )
    return PostprocessConfig(config, set_capabilities)


def count_precisions(sdk: ModuleType, network: Any) -> tuple[dict[str, int], dict[str, int]]:  # noqa: ANN401
    """Layers, and convolutions among them, by the type of their first output, as in `{"HALF": 40, "FLOAT": 2}`."""
    layers: Counter[str] = Counter()
    convolutions: Counter[str] = Counter()
    for layer in map(network.get_layer, range(network.num_layers)):
        kind = layer.get_output(0).dtype.name
        layers[kind] += 1
        if layer.type in (sdk.LayerType.CONVOLUTION, sdk.LayerType.DECONVOLUTION):
            convolutions[kind] += 1
    return dict(layers), dict(convolutions)


def check_precision(precision: Precision, convolutions: dict[str, int]) -> None:
    """Refuse a graph whose convolutions are not all of the precision that it was given as.

    Raises:
        BackendError: there are others.
    """
    wanted = _ENGINE_TYPES.get(precision)
    others = {kind: count for kind, count in convolutions.items() if kind != wanted}
    if wanted is not None and others:
        seen = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
        raise BackendError(f"an {precision} engine was asked for, but the graph has convolutions in {seen}; convert it")


def inspect_engine(sdk: ModuleType, engine: bytes) -> str:
    """Types that the built engine's layers write, as it says itself; it takes the GPU it was built for to ask."""
    if not trt.visible_gpus():
        return "not inspected: an engine opens on a GPU only, and there is none here"
    import json

    runtime = sdk.Runtime(sdk.Logger(sdk.Logger.ERROR))
    opened = runtime.deserialize_cuda_engine(engine)
    if opened is None:
        return "not inspected: the engine does not open on this GPU"
    text = opened.create_engine_inspector().get_engine_information(sdk.LayerInformationFormat.JSON)
    layers = json.loads(text).get("Layers", [])
    kinds = Counter(
        str(layer["Outputs"][0].get("Format/Datatype", layer["Outputs"][0].get("Datatype", "unnamed")))
        for layer in layers
        if isinstance(layer, dict) and layer.get("Outputs")
    )
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "the engine names no layers"


def main() -> int:
    """Read a job from stdin, do it, and leave engine and report where it says."""
    job = BuildJob.model_validate_json(sys.stdin.read())
    try:
        report = build(job)
    except Exception as error:  # noqa: BLE001 - the process ends here, whatever it was
        line = " ".join(str(error).split()) or type(error).__name__
        print(f"{FAILURE_MARK}{line}", file=sys.stderr, flush=True)  # noqa: T201 - stderr is the way back
        return 1
    job.report.write_text(report.model_dump_json(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
