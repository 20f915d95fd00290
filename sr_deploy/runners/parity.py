"""What runners are compared with."""

from __future__ import annotations

from dataclasses import dataclass

from sr_deploy.backends import BackendChoice
from sr_deploy.errors import InputError
from sr_deploy.files import sha256_of
from sr_deploy.model import Model
from sr_deploy.runners.choose import open_runner
from sr_deploy.runners.protocol import Runner


@dataclass(frozen=True)
class Reference:
    """What a model's artefacts are compared with."""

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
        return Reference("torch:fp32", sha256_of(model.weights_path))
    if not model.precisions:
        raise InputError(
            f"{model.path} holds neither PyTorch weights nor an ONNX graph to compare with; give the bundle it is of"
        )
    precision = model.precisions[0]
    return Reference(f"onnxruntime:{precision}, graph as written", sha256_of(model.graph_path(precision)))


def open_reference(model: Model, *, threads: int | None = None) -> Runner:
    """PyTorch in fp32 (TF32 off); for a graph without weights, ONNX Runtime with every optimisation off, on the CPU.

    Raises:
        InputError: nothing to compare with.
        BackendError: it does not run here.
    """
    describe_reference(model)
    if model.has_weights:
        return open_runner(model, BackendChoice("torch", "fp32"), threads=threads)
    from sr_deploy.runners.onnxruntime_runner import OnnxRuntimeRunner

    return OnnxRuntimeRunner(model, BackendChoice("onnxruntime", model.precisions[0]), "cpu", threads, optimise=False)
