"""Who computes: what was asked for, the best that runs here, and who computes again in FP32."""

from __future__ import annotations

import logging
from functools import partial

from sr_deploy.backends import BackendChoice
from sr_deploy.backends.registry import get_backend, parse_backend
from sr_deploy.errors import BackendError
from sr_deploy.gpus import Gpu, find_gpu
from sr_deploy.model import Model
from sr_deploy.runners import runnable_choices
from sr_deploy.runners.engines import list_untrusted
from sr_deploy.runners.faithful import explain_left_out, explain_unrunnable, list_faithful, list_faithful_on_gpu
from sr_deploy.runners.fastest import find_fastest

_LOG = logging.getLogger(__name__)


def choose_backend(
    model: Model, backend: str | BackendChoice, device: str | None = None, threads: int | None = None
) -> BackendChoice:
    """The backend that is asked for, or the fastest faithful one.

    `auto` is the fastest of what runs here in fp32, or in a lower precision that the bundle was exported with and that
    its certificate covers on this machine: measured once, then cached (docs/backends.md). Where
    there is an NVIDIA GPU that PyTorch sees, these are engines that fit it, and PyTorch on it; else what runs on the
    CPU.

    Raises:
        InputError: no such backend.
        BackendError: nothing runs this model here; the message says why not.
    """
    if isinstance(backend, BackendChoice):
        return backend
    if backend != "auto":
        return parse_backend(backend)
    candidates, gpu = list_candidates(model, device)
    explain = partial(explain_left_out, model, gpu)
    name = None if gpu is None else gpu.name
    return find_fastest(model, candidates, device=device, threads=threads, gpu=name, explain=explain)


def list_candidates(model: Model, device: str | None = None) -> tuple[list[BackendChoice], Gpu | None]:
    """What `auto` chooses among, and the GPU that it runs on; None: the processor.

    Raises:
        BackendError: nothing runs this model here; the message says why not.
    """
    gpu = None if device == "cpu" else find_gpu(device)
    if gpu is not None:
        unseen = _why_torch_sees_no_gpu()
        if unseen and device is not None:
            raise BackendError(f"there is an {gpu.name}, and {unseen}; give --device cpu, or a torch that sees it")
        if unseen:
            _LOG.warning("--backend auto takes the CPU, although there is an %s: %s", gpu.name, unseen)
        else:
            for line in list_untrusted(model):
                _LOG.debug("--backend auto leaves out %s", line)
            if on_gpu := list_faithful_on_gpu(model, gpu):
                return on_gpu, gpu
    faithful = list_faithful(model)
    if not faithful:
        raise BackendError(f"nothing runs {model.path} here: {explain_unrunnable(model)}")
    return faithful, None


def _why_torch_sees_no_gpu() -> str:
    """Why PyTorch, which holds pictures on a GPU for engines too, runs on none; empty: it does."""
    from sr_deploy.runners.cuda_graph import why_no_cuda

    return why_no_cuda() or ""


def choose_fp32(model: Model, instead_of: BackendChoice) -> BackendChoice | None:
    """Who computes in FP32 what another backend did not get right: PyTorch, the reference, where it runs.

    None if nothing but `instead_of` itself, or nothing at all, computes this model in FP32 here.
    """
    able = [
        choice
        for choice in runnable_choices(model)
        if choice.precision == "fp32" and get_backend(choice.backend).artifact != "engine" and choice != instead_of
    ]
    return able[0] if able else None
