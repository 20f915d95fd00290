"""What runners are compared with."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from sr_deploy.backends import BackendChoice, Precision
from sr_deploy.backends.description import DEFAULT_LAYOUT, RunOptions
from sr_deploy.backends.registry import get_reference
from sr_deploy.errors import InputError
from sr_deploy.files import sha256_of
from sr_deploy.graph.widen import read_widened
from sr_deploy.model import Model, open_model
from sr_deploy.runners.choose import open_runner
from sr_deploy.runners.protocol import Runner

_WIDENED: tuple[Precision, ...] = ("fp16",)


@dataclass(frozen=True)
class Reference:
    """What a model's artifacts are compared with."""

    title: str
    """As in `torch:fp32`, or what stands in where there are no PyTorch weights."""
    sha256: str
    """Hash of the file of weights, or of the graph."""


def describe_reference(model: Model) -> Reference:
    """What `open_reference` computes, without loading it.

    Raises:
        InputError: neither weights nor an ONNX graph, so there is nothing to compare with.
    """
    if model.has_weights and model.weights_path is not None:
        return Reference(str(BackendChoice(get_reference("weights").name)), sha256_of(model.weights_path))
    if not model.precisions:
        raise InputError(
            f"{model.path} holds neither PyTorch weights nor an ONNX graph to compare with; give the bundle it is of"
        )
    precision = model.precisions[0]
    sha256 = sha256_of(model.graph_path(precision))
    if precision in _WIDENED:
        return Reference(f"{BackendChoice(get_reference('graph').name)}, graph widened from {precision}", sha256)
    return Reference(f"{BackendChoice(get_reference('graph').name, precision)}, graph as written", sha256)


def open_default_layout(model: Model) -> Runner:
    """PyTorch in fp32 (TF32 off) with feature maps in its default memory layout; others are channels_last.

    Raises:
        BackendError: it does not run here.
    """
    torch = get_reference("weights")
    return torch.open(model, BackendChoice(torch.name), RunOptions(variant=DEFAULT_LAYOUT))


def open_reference(model: Model, *, threads: int | None = None) -> Runner:
    """PyTorch in fp32 (TF32 off); for a graph without weights, ONNX Runtime with every optimization off, on the CPU.

    An FP16 graph is widened for that: the same numbers, computed in FP32 from FP32 input to FP32 output.

    Raises:
        InputError: nothing to compare with.
        BackendError: it does not run here.
    """
    describe_reference(model)
    if model.has_weights:
        return open_runner(model, BackendChoice(get_reference("weights").name), threads=threads)
    reference, precision = get_reference("graph"), model.precisions[0]
    options = RunOptions(device="cpu", threads=threads, arithmetic="as written")
    if precision not in _WIDENED:
        return reference.open(model, BackendChoice(reference.name, precision), options)
    with tempfile.TemporaryDirectory(prefix="sr-deploy-") as folder:  # a session holds its graph: the file may go
        path = Path(folder, "widened.onnx")
        path.write_bytes(read_widened(model.graph_path(precision)).SerializeToString())
        return reference.open(open_model(path), BackendChoice(reference.name), options)
