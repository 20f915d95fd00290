"""Who computes: what was asked for, the best that runs here, and who computes again in FP32."""

from __future__ import annotations

import logging

from sr_deploy.backends import TENSORRT_BACKENDS, BackendChoice, parse_backend
from sr_deploy.errors import BackendError
from sr_deploy.model import Model
from sr_deploy.runners import runnable_choices
from sr_deploy.runners.engines import list_untrusted
from sr_deploy.runners.faithful import explain_left_out, explain_unrunnable, list_faithful
from sr_deploy.runners.fastest import find_fastest
from sr_deploy.trt import visible_gpus

_LOG = logging.getLogger(__name__)


def choose_backend(
    model: Model, backend: str | BackendChoice, device: str | None = None, threads: int | None = None
) -> BackendChoice:
    """The backend that is asked for, or the fastest faithful one.

    `auto` is, where there is an NVIDIA GPU, an engine that fits it, else PyTorch on it. On a CPU it is the fastest of
    what runs here in fp32, or in a lower precision that the bundle was exported with and that its certificate vouches
    for on this machine: measured at the first time, then remembered (docs/backends.md).

    Raises:
        InputError: no such backend.
        BackendError: nothing runs this model here; the message says why not.
    """
    if isinstance(backend, BackendChoice):
        return backend
    if backend != "auto":
        return parse_backend(backend)
    if visible_gpus() and device != "cpu":
        on_gpu = _choose_on_gpu(model)
        if on_gpu is not None:
            return on_gpu
    faithful = list_faithful(model)
    if not faithful:
        raise BackendError(f"nothing runs {model.path} here: {explain_unrunnable(model)}")
    return find_fastest(model, faithful, device=device, threads=threads, explain=lambda: explain_left_out(model))


def _choose_on_gpu(model: Model) -> BackendChoice | None:
    """An engine that fits this GPU, else PyTorch on it, else None."""
    runnable = runnable_choices(model)
    engines = [choice for choice in runnable if choice.backend in TENSORRT_BACKENDS]
    if engines:
        return engines[0]
    for line in list_untrusted(model):
        _LOG.info("--backend auto leaves out %s", line)
    in_torch = BackendChoice("torch")
    return in_torch if in_torch in runnable and _torch_sees_gpu() else None


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
