"""Who computes: what was asked for, the best that runs here, and who computes again in FP32."""

from __future__ import annotations

from sr_deploy.backends import TENSORRT_BACKENDS, BackendChoice, parse_backend
from sr_deploy.errors import BackendError
from sr_deploy.model import Model
from sr_deploy.runners import runnable_choices, why_not_runnable
from sr_deploy.trt import visible_gpus

_AUTO_ORDER = (BackendChoice("openvino"), BackendChoice("onnxruntime"), BackendChoice("torch"))


def choose_backend(model: Model, backend: str | BackendChoice) -> BackendChoice:
    """The backend that is asked for, or the first that runs here.

    `auto` is, where there is an NVIDIA GPU, an engine that fits it, else PyTorch on it; without a GPU OpenVINO, ONNX
    Runtime, PyTorch, in this order, in fp32.

    Raises:
        InputError: no such backend.
        BackendError: nothing runs this model here; the message says why not.
    """
    if isinstance(backend, BackendChoice):
        return backend
    if backend != "auto":
        return parse_backend(backend)
    runnable = runnable_choices(model)
    engines = tuple(choice for choice in runnable if choice.backend in TENSORRT_BACKENDS)
    on_cpu = tuple(choice for choice in _AUTO_ORDER if choice in runnable)
    if visible_gpus():
        on_gpu = tuple(choice for choice in on_cpu if choice.backend == "torch" and _torch_sees_gpu())
        on_cpu = (*engines, *on_gpu, *on_cpu)
    if on_cpu:
        return on_cpu[0]
    if runnable:
        return runnable[0]
    reasons = (why_not_runnable(model, choice) for choice in _AUTO_ORDER)
    raise BackendError(f"nothing runs {model.path} here: {'; '.join(filter(None, reasons))}")


def find_receptive_radius(model: Model) -> int | None:
    """How far the network looks around a pixel, in input pixels; None if neither a graph nor a spec tells."""
    if model.precisions:  # the graph first: reading it needs no torch
        from sr_deploy.graph.read import describe_graph_cost

        return describe_graph_cost(model.graph_path(model.precisions[0])).receptive_radius
    if model.arch is not None:
        from sr_deploy.arch.registry import describe_cost

        return describe_cost(model.arch).receptive_radius
    return None


def choose_fp32(model: Model, instead_of: BackendChoice) -> BackendChoice | None:
    """Who computes in FP32 what another backend did not get right: PyTorch, the reference, where it runs.

    None if nothing but `instead_of` itself, or nothing at all, computes this model in FP32 here.
    """
    able = [
        choice
        for choice in runnable_choices(model)
        if choice.precision == "fp32" and choice.backend not in TENSORRT_BACKENDS and choice != instead_of
    ]
    return able[0] if able else None


def _torch_sees_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
