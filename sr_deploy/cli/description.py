"""What `sr-deploy info` knows of a model, gathered from every part that knows some of it. No torch at import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.cli.certificate_facts import CertificateFacts, describe_certificate

if TYPE_CHECKING:
    from sr_deploy.bundle import EngineRecord
    from sr_deploy.model import Model


@dataclass(frozen=True)
class FileFacts:
    """A file on disk."""

    file: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class CostFacts:
    """What a network or a graph needs for each pixel of its input."""

    parameters: int
    """How many numbers are trained."""
    flops_per_input_pixel: float | None
    """Two for each multiply-add; None: not known, because shapes inside a graph are not."""
    receptive_radius: int | None
    """In input pixels; None: not bounded, or not known."""
    precision_share: Mapping[str, float]
    """Share of the multiply-adds, 0 to 1, by precision."""
    bytes_per_input_pixel: float | None = None
    """Of images and feature maps, read and written by a graph's layers as they stand; None: no graph, or not known."""


@dataclass(frozen=True)
class GraphFacts:
    """An ONNX file."""

    file: FileFacts
    precision: str
    """In which its convolutions compute."""
    io: str
    """Input and output: names, types, axes."""
    opset: int
    """Version of ONNX's operators."""
    nodes: int
    cost: CostFacts
    """As the nodes have it."""
    metadata: dict[str, str]


@dataclass(frozen=True)
class EngineFacts:
    """A TensorRT engine."""

    file: FileFacts
    precision: str
    """Of the graph it was built from."""
    builder: str
    """Backend and its version."""
    target: str
    """What it was built for."""
    profiles: tuple[str, ...]
    """Shapes of the input that it takes."""
    layer_precisions: dict[str, int]
    """Declared: layers by type."""
    inspected: str
    """What the built engine says, or why it was not asked."""
    built_at: str
    """Time in UTC, ISO 8601."""


@dataclass(frozen=True)
class Description:
    """All that `info` says of a path."""

    path: str
    kind: str
    """checkpoint, graph, bundle or engine."""
    scale: int
    """Output pixels per input pixel, along a side."""
    channels: int
    """Of the images, 1 or 3."""
    input_multiple: int
    """Sides must be multiples of this."""
    network: str | None
    """The architecture in one line, where known."""
    arch: dict[str, object] | None
    """The same in fields."""
    layout: str | None
    """How the checkpoint named its tensors."""
    notes: tuple[str, ...] = ()
    """What was found out about it beyond what it says, a line each."""
    attribution: dict[str, str] = field(default_factory=dict)
    """License, author and source of the weights, as far as they are recorded."""
    weights: FileFacts | None = None
    cost: CostFacts | None = None
    """In fp32."""
    graphs: tuple[GraphFacts, ...] = ()
    engines: tuple[EngineFacts, ...] = ()
    certificate: CertificateFacts | None = None
    source: dict[str, str] = field(default_factory=dict)
    """What a bundle was made from: file, sha256, layout; what a run trained: recipe, step, status, best step."""
    tools: dict[str, str] = field(default_factory=dict)
    """Versions of what was used."""
    created_at: str | None = None
    """Time of a bundle in UTC, ISO 8601."""


@dataclass(frozen=True)
class DiscriminatorDescription:
    """All that `info` says of a discriminator's weights."""

    path: str
    kind: str
    """Always `discriminator`."""
    network: str
    """The architecture in one line."""
    discriminator: dict[str, object]
    """The same in fields."""
    parameters: int
    """How many numbers are trained."""
    weights: FileFacts


def describe_discriminator(path: Path) -> DiscriminatorDescription:
    """What network a discriminator's weights are for.

    Raises:
        CheckpointError: it is of an unknown layout, or contradicts itself.
    """
    import torch

    from sr_deploy.arch.discriminators import build_discriminator, read_discriminator

    spec, _ = read_discriminator(path)
    plain = spec.model_copy(update={"spectral_norm": False})  # which trains nothing of its own
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in build_discriminator(plain).parameters())
    return DiscriminatorDescription(
        path=str(path),
        kind="discriminator",
        network=spec.title(),
        discriminator=spec.model_dump(),
        parameters=parameters,
        weights=describe_file(path),
    )


def describe(model: Model) -> Description:
    """Gather what is known of an opened model."""
    manifest = model.bundle.manifest if model.bundle else None
    source, tools, created_at = _describe_run(model)
    if manifest is not None:
        source = manifest.source.model_dump(exclude_none=True)
        tools, created_at = manifest.tools, manifest.created_at
    if model.kind == "bundle" and model.bundle is not None:
        graphs = tuple(describe_graph(model.bundle.graph(precision)) for precision in model.precisions)
    else:
        graphs = (describe_graph(model.path),) if model.kind == "graph" else ()
    return Description(
        path=str(model.path),
        kind=model.kind,
        scale=model.scale,
        channels=model.channels,
        input_multiple=model.input_multiple,
        network=_describe_network(model) if model.arch else None,
        arch=model.arch.model_dump() if model.arch else None,
        layout=model.layout,
        notes=model.notes,
        attribution=model.attribution.stated,
        weights=describe_file(model.weights_path) if model.weights_path else None,
        cost=_describe_network_cost(model),
        graphs=graphs,
        engines=_describe_engines(model),
        certificate=describe_certificate(model.bundle) if model.kind == "bundle" and model.bundle else None,
        source=source,
        tools=tools,
        created_at=created_at,
    )


def _describe_network(model: Model) -> str:
    """What it is, and what people call it; the name only where weights were read, since it takes torch to know it."""
    assert model.arch is not None
    if model.kind != "checkpoint":
        return model.arch.title()
    from sr_deploy.arch.registry import complete_spec, get_architecture

    known_as = get_architecture(model.arch.architecture).known_as(complete_spec(model.arch))
    return model.arch.title() if known_as is None else f"{model.arch.title()} ({known_as})"


def describe_file(path: Path) -> FileFacts:
    """Size and hash of a file."""
    from sr_deploy.files import sha256_of

    return FileFacts(str(path), path.stat().st_size, sha256_of(path))


def describe_graph(path: Path) -> GraphFacts:
    """What an ONNX file takes, gives and costs."""
    from sr_deploy.graph.read import describe_graph_cost, read_graph

    graph, cost = read_graph(path), describe_graph_cost(path)
    named = {axis: str(side or axis) for axis, side in zip("NCHW", graph.input_shape, strict=True)}
    dims = " x ".join(named[axis] for axis in graph.layout)
    return GraphFacts(
        file=describe_file(path),
        precision=graph.precision,
        io=f"{graph.input_name} ({dims}, {graph.input_dtype}) -> {graph.output_name} ({graph.output_dtype})",
        opset=graph.opset,
        nodes=cost.nodes,
        cost=CostFacts(
            cost.parameters,
            cost.flops_per_input_pixel,
            cost.receptive_radius,
            dict(cost.precision_share.items()),
            cost.bytes_per_input_pixel,
        ),
        metadata=graph.metadata,
    )


def _describe_network_cost(model: Model) -> CostFacts | None:
    """From the architecture; a graph's own nodes say it better, and without torch."""
    if model.kind != "checkpoint" or model.arch is None:
        return None
    from sr_deploy.arch.registry import describe_cost

    cost = describe_cost(model.arch)
    return CostFacts(cost.parameters, cost.flops_per_input_pixel, cost.receptive_radius, {"fp32": 1.0})


def _describe_engines(model: Model) -> tuple[EngineFacts, ...]:
    if model.bundle is None:
        return ()
    records: tuple[EngineRecord, ...] = (model.engine,) if model.engine else model.bundle.engines()
    return tuple(
        EngineFacts(
            file=describe_file(model.bundle.path / record.engine.file),
            precision=record.precision,
            builder=f"{record.backend} {record.backend_version}",
            target=record.target,
            profiles=tuple(map(str, record.profiles)),
            layer_precisions=record.layer_precisions,
            inspected=record.inspected,
            built_at=record.built_at,
        )
        for record in records
    )


def _describe_run(model: Model) -> tuple[dict[str, str], dict[str, str], str | None]:
    """Source, tools and time of the training run that a checkpoint lies in."""
    from sr_deploy.run_folder import is_run, list_checkpoints
    from sr_deploy.train.run import describe_best, read_manifest

    weights = model.weights_path
    folders = [model.path, *weights.absolute().parents[:3]] if model.kind == "checkpoint" and weights else []
    run = next((folder for folder in folders if is_run(folder)), None)
    if run is None:
        return {}, {}, None
    manifest = read_manifest(run)
    source = {
        "run": manifest.name,
        "recipe": manifest.recipe,
        "status": manifest.status,
        "step": f"{manifest.step} of {manifest.steps}",
        "checkpoints": " ".join(str(step) for step, _ in list_checkpoints(run)),
    }
    if manifest.started_from is not None:
        source["started from"] = ": ".join(filter(None, (manifest.started_from.path, manifest.started_from.transfer)))
    if manifest.best_validation is not None:
        source["best"] = describe_best(manifest.best_validation)
    return source, manifest.versions, manifest.created_at.isoformat()
