"""`open_model(path)`: what is this, and what can be run of it. No torch before weights are asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from sr_deploy.arch.spec import NOT_STATED, ArchSpec, Attribution
from sr_deploy.backends import Precision
from sr_deploy.bundle import DEFAULT_THRESHOLDS, Bundle, EngineRecord, Thresholds, open_bundle
from sr_deploy.bundle.records import ENGINES_FOLDER
from sr_deploy.bundle.store import MANIFEST_NAME, is_bundle
from sr_deploy.bundle.trust import BUILT_HERE, EngineTrust
from sr_deploy.errors import BackendError, BundleError, CheckpointError, DamagedBundleError, GraphError, InputError
from sr_deploy.files import require_file
from sr_deploy.graph.io_dtype import Dtype
from sr_deploy.graph.read import METADATA_PREFIX, GraphInfo, read_graph
from sr_deploy.run_folder import find_named_checkpoint, list_weights, split_checkpoint_name
from sr_deploy.shipped import shipped_models

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Model:
    """Something that upscales, whatever form it has on disk."""

    path: Path
    """What was opened: a file, a bundle or a run."""
    kind: Literal["checkpoint", "graph", "bundle", "engine"]
    scale: int
    """Output pixels per input pixel along each side."""
    channels: int
    """Of the images, 1 or 3."""
    input_multiple: int
    """Height and width must be multiples of this."""
    arch: ArchSpec | None
    """The network, where it is known."""
    layout: str | None = None
    """How the checkpoint, or the one that the bundle was made from, named its tensors."""
    graph_info: GraphInfo | None = None
    """The graph, for kind graph."""
    bundle: Bundle | None = None
    """The bundle, for kinds bundle and engine."""
    engine: EngineRecord | None = None
    """The engine's record, for kind engine."""
    weights_path: Path | None = None
    """The file with PyTorch weights, for kinds checkpoint and bundle."""
    attribution: Attribution = NOT_STATED
    """Whose the weights are, where the checkpoint or the bundle says so."""
    notes: tuple[str, ...] = ()
    """What was found out about a checkpoint beyond what it says, a line each."""
    trust: EngineTrust = BUILT_HERE
    """Which engines of it may be opened."""

    @property
    def has_weights(self) -> bool:
        """Whether `load_network` can give the network."""
        return self.weights_path is not None

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Precisions of the ONNX graphs that it has."""
        if self.graph_info is not None:
            return (self.graph_info.precision,)
        if self.kind == "bundle" and self.bundle is not None:
            return self.bundle.precisions
        return ()

    def thresholds_for(self, precision: Precision) -> Thresholds:
        """What verification asks of that precision: the bundle's own thresholds, or the default."""
        manifest = self.bundle.manifest if self.bundle is not None else None
        return manifest.thresholds_for(precision) if manifest else DEFAULT_THRESHOLDS[precision]

    @property
    def input_dtype(self) -> Dtype:
        """Type of the inputs (and outputs) of its ONNX graphs; float32 where there are none."""
        if self.graph_info is not None:
            return self.graph_info.input_dtype
        return read_graph(self.graph_path(self.precisions[0])).input_dtype if self.precisions else "float32"

    def graph_path(self, precision: Precision) -> Path:
        """The ONNX file of that precision.

        Raises:
            BackendError: it has no graph of that precision.
            BundleError: likewise, for a bundle.
        """
        if self.kind == "bundle" and self.bundle is not None:
            return self.bundle.graph(precision)
        if self.graph_info is None:
            what = "an engine" if self.kind == "engine" else "a checkpoint"
            raise BackendError(
                f"{self.path} is {what} and has no ONNX graph; make one with: sr-deploy export "
                f"{'CHECKPOINT' if self.kind == 'engine' else self.path}"
            )
        if precision != self.graph_info.precision:
            raise BackendError(f"{self.path} is a graph in {self.graph_info.precision}, not in {precision}")
        return self.path

    def load_network(self) -> nn.Module:
        """The network in PyTorch: evaluation mode, fp32, on the CPU, without gradients.

        Raises:
            CheckpointError: there are no weights here (graphs and engines), or they do not fit.
        """
        import torch

        from sr_deploy.arch.registry import build_network, input_multiple
        from sr_deploy.arch.weights import read_checkpoint

        if self.weights_path is None:
            raise CheckpointError(
                f"{self.path} is {'an engine' if self.kind == 'engine' else 'an ONNX graph'} and has no PyTorch "
                "weights; give a checkpoint or a bundle"
            )
        checkpoint = read_checkpoint(self.weights_path)
        if checkpoint.spec != self.arch:
            raise CheckpointError(
                f"{self.weights_path} holds {checkpoint.spec.title()}, but {self.path} is of "
                f"{self.arch.title() if self.arch else 'another network'}; make it again"
            )
        due = input_multiple(checkpoint.spec)
        if self.input_multiple != due:
            raise DamagedBundleError(
                f"{self.path} says that sides are multiples of {self.input_multiple}, and {checkpoint.spec.title()} "
                f"takes multiples of {due}; make it again with sr-deploy export"
            )
        with torch.device("meta"):
            network = build_network(checkpoint.spec)
        network.load_state_dict(checkpoint.state, assign=True)
        return network.eval().requires_grad_(False)


def open_model(path: Path | str, trust: EngineTrust = BUILT_HERE) -> Model:
    """Open a checkpoint, an ONNX file, a bundle, an engine in its bundle, or a training run.

    Args:
        path: a file, a bundle's folder, a run's folder (its newest checkpoint is taken), `RUN@best`, `RUN@last` or
            `RUN@STEP`, or one of its step folders; or, where there is no such file or folder, the name of a network
            that ships with sr-deploy: `small-x2`.
        trust: which engines of it may be opened beyond those that were built here.

    Raises:
        InputError: nothing there, or a folder that is none of these.
        CheckpointError, GraphError, BundleError: found, and not usable; the message says why.
    """
    return replace(_open(Path(path)), trust=trust)


def _open(path: Path) -> Model:
    if not path.exists():
        path = shipped_models().get(str(path), path)
        run, which = split_checkpoint_name(path)
        path = find_named_checkpoint(run, which) if which else path
    if not path.exists():
        raise InputError(f"{path} does not exist; give a checkpoint, an ONNX file, a bundle, an engine or a run")
    if path.is_dir():
        return _open_folder(path)
    require_file(path, "a model")
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return _open_graph(path)
    if suffix == ".engine":
        return _open_engine(path)
    if path.name == MANIFEST_NAME:
        return _open_bundle(path.parent)
    return _open_checkpoint(path, path)


def _open_folder(path: Path) -> Model:
    if is_bundle(path):
        return _open_bundle(path)
    weights = next(iter(list_weights(path)), None)
    if weights is None:
        raise InputError(
            f"{path} is a folder with no {MANIFEST_NAME} (a bundle) and no finished checkpoint (a training run); give "
            "a checkpoint, an ONNX file, a bundle, an engine or a run"
        )
    return _open_checkpoint(path, weights)


def _open_checkpoint(path: Path, weights: Path) -> Model:
    from sr_deploy.arch.registry import input_multiple
    from sr_deploy.arch.weights import read_checkpoint

    checkpoint = read_checkpoint(weights)
    return Model(
        path=path,
        kind="checkpoint",
        scale=checkpoint.spec.scale,
        channels=checkpoint.spec.channels,
        input_multiple=input_multiple(checkpoint.spec),
        arch=checkpoint.spec,
        layout=checkpoint.layout,
        weights_path=weights,
        attribution=checkpoint.attribution,
        notes=checkpoint.notes,
    )


def _open_graph(path: Path) -> Model:
    info = read_graph(path)
    return Model(
        path=path,
        kind="graph",
        scale=info.scale,
        channels=info.channels,
        input_multiple=info.input_multiple,
        arch=_read_arch(info),
        graph_info=info,
    )


def _read_arch(info: GraphInfo) -> ArchSpec | None:
    """The network that the metadata of a graph of ours name."""
    text = info.metadata.get(f"{METADATA_PREFIX}arch")
    if text is None:
        return None
    try:
        arch = ArchSpec.model_validate_json(text)
    except ValidationError as error:
        raise GraphError(f"{info.path}: its metadata describe no network known here: {text[:120]}") from error
    if (arch.scale, arch.channels) != (info.scale, info.channels):
        raise GraphError(
            f"{info.path}: its metadata describe {arch.title()}, but its nodes make x{info.scale} with {info.channels} "
            "channels; the file was changed after its export; export it again"
        )
    return arch


def _open_bundle(path: Path) -> Model:
    bundle = open_bundle(path)
    return replace(
        _model_of(bundle, path, "bundle"), weights_path=bundle.reference, attribution=bundle.manifest.source.attribution
    )


def _open_engine(path: Path) -> Model:
    record_path = path.with_suffix(".json")
    folder = path.absolute().parent.parent
    if not os.path.lexists(record_path) or not is_bundle(folder):
        raise BundleError(
            f"{path} stands alone: an engine is used inside its bundle, with its record {record_path.name} beside it, "
            "because it does not say what it was built from; give the bundle's engine, or run: sr-deploy build BUNDLE"
        )
    bundle = open_bundle(folder)
    record = bundle.read_engine(f"{ENGINES_FOLDER}/{record_path.name}")
    if path.absolute().relative_to(folder).as_posix() != record.engine.file:
        raise DamagedBundleError(f"{path} is not a place of an engine; give {folder / record.engine.file}")
    if record.graph_sha256 not in {graph.sha256 for graph in bundle.manifest.graphs}:
        raise DamagedBundleError(
            f"{path} was built from a graph that is not in its bundle; build it again with: sr-deploy build {folder}"
        )
    return replace(_model_of(bundle, path, "engine"), engine=record)


def _model_of(bundle: Bundle, path: Path, kind: Literal["bundle", "engine"]) -> Model:
    manifest = bundle.manifest
    return Model(
        path=path,
        kind=kind,
        scale=manifest.arch.scale,
        channels=manifest.arch.channels,
        input_multiple=manifest.input_multiple,
        arch=manifest.arch,
        layout=manifest.source.layout,
        bundle=bundle,
    )
