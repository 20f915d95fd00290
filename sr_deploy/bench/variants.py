"""Opens a candidate: as `sr-deploy upscale` would, or in one of the ways that exist for comparison alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.backends.description import RunOptions
from sr_deploy.backends.registry import get_backend
from sr_deploy.bench.choices import FIXED, CandidateChoice
from sr_deploy.bundle import Profile, Shape
from sr_deploy.files import sha256_of
from sr_deploy.graph.load import load_whole_model
from sr_deploy.model import Model
from sr_deploy.runners import open_runner
from sr_deploy.runners.choose import find_graph_precision
from sr_deploy.runners.engines import find_engine_folder

if TYPE_CHECKING:
    from onnx import ModelProto

    from sr_deploy.runners.protocol import Runner


def open_candidate(model: Model, choice: CandidateChoice, threads: int) -> Runner:
    """Load it; for `+fixed`, `model` is the graph that `write_fixed_graph` wrote.

    Raises:
        BackendError: it does not run here.
    """
    if choice.variant in (None, FIXED):
        return open_runner(model, choice.backend, threads=threads)
    options = RunOptions(threads=threads, variant=choice.variant)
    return get_backend(choice.backend.backend).open(model, choice.backend, options)


def write_fixed_graph(model: Model, choice: CandidateChoice, shape: Shape, folder: Path) -> Path:
    """Write the candidate's graph with its batch, height and width fixed, and build an engine of it if it runs one.

    Raises:
        BackendError: there is no such graph, or no engine can be built.
    """
    import onnx

    source = model.graph_path(find_graph_precision(model, choice.backend))
    proto = load_whole_model(source)
    fix_shape(proto, shape, model.input_dtype in ("uint8", "uint16"))
    path = folder / f"{sha256_of(source)[:12]}-{shape}.onnx"
    onnx.save(proto, str(path))
    if get_backend(choice.backend.backend).builder is not None:
        from sr_deploy.engine.bundle import build_engines

        profile = Profile(name="fixed", min=shape, opt=shape, max=shape)
        build_engines(path, choice.backend.backend, profiles=(profile,))
    return path


def fix_shape(proto: ModelProto, shape: Shape, channels_last: bool) -> None:
    """Write batch, height and width into the input of a graph; what was inferred for other tensors is dropped."""
    axes = (0, 1, 2) if channels_last else (0, 2, 3)
    (source,) = [
        one for one in proto.graph.input if one.name not in {tensor.name for tensor in proto.graph.initializer}
    ]
    for axis, side in zip(axes, shape, strict=True):
        source.type.tensor_type.shape.dim[axis].dim_value = side
    del proto.graph.value_info[:]
    for target in proto.graph.output:
        for axis in axes:
            target.type.tensor_type.shape.dim[axis].Clear()


def find_build_seconds(model: Model, choice: CandidateChoice, artifact: Path | None) -> float | None:
    """How long the engine that runs took to build, by its record; None where it is no engine."""
    if get_backend(choice.backend.backend).builder is None or artifact is None:
        return None
    records = find_engine_folder(model, choice.backend).engines()
    return next((one.build_seconds for one in records if Path(one.engine.file).name == artifact.name), None)
