"""Candidates: a backend in a precision, and the ways in which the same network may be run besides."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from sr_deploy.backends import INT8_BF16, QUANTIZED, TENSORRT_BACKENDS, BackendChoice, parse_backend
from sr_deploy.bench.report import LeftOut
from sr_deploy.deps import is_installed
from sr_deploy.errors import BackendError, InputError
from sr_deploy.gpus import visible_gpus
from sr_deploy.measure.machine import has_multiplier
from sr_deploy.model import Model
from sr_deploy.runners import why_not_runnable
from sr_deploy.runners.choose import all_choices, find_graph_precision

Variant = Literal["nchw", "compile", "eager", "fixed"]
"""`nchw`: PyTorch in its default memory layout. `compile`: through torch.compile. `eager`: without CUDA graphs on
a GPU. `fixed`: a graph or an engine for the timed shape alone."""

VARIANTS: tuple[Variant, ...] = get_args(Variant)


@dataclass(frozen=True)
class CandidateChoice:
    """Who takes part, written `openvino:fp32` or `openvino:fp32+fixed`."""

    backend: BackendChoice
    """Who computes, in which precision."""
    variant: Variant | None = None
    """None: as `sr-deploy upscale` runs it."""

    def __str__(self) -> str:
        return f"{self.backend}+{self.variant}" if self.variant else str(self.backend)


BASELINE = CandidateChoice(BackendChoice("torch", "fp32"), "nchw")
"""PyTorch eager, in single precision and the default memory layout."""


def parse_candidate(text: str) -> CandidateChoice:
    """Read `NAME[:PRECISION][+VARIANT]`.

    Raises:
        InputError: unknown backend, precision or variant; the message lists those known.
    """
    mixed = str(INT8_BF16)
    if text == mixed or text.startswith(f"{mixed}+"):  # its own plus is no variant's
        backend, plus, wanted = INT8_BF16, text[len(mixed) :][:1], text[len(mixed) + 1 :]
    else:
        name, plus, wanted = text.partition("+")
        backend = parse_backend(name)
    if not plus:
        return CandidateChoice(backend)
    for variant in VARIANTS:
        if wanted == variant:
            return CandidateChoice(backend, variant)
    raise InputError(f"unknown variant {wanted!r} in {text!r}; known: {', '.join(VARIANTS)}")


def choose_candidates(
    model: Model, choices: Sequence[CandidateChoice] | None
) -> tuple[list[CandidateChoice], list[LeftOut]]:
    """Who runs, the baseline first, and who does not and why.

    Raises:
        BackendError: the baseline does not run here.
    """
    baseline = find_baseline(model)
    reason = why_not_timed(model, baseline)
    if reason is not None:
        raise BackendError(f"the baseline does not run: {reason}")
    wanted = _all_candidates() if choices is None else list(dict.fromkeys(choices))
    if choices is None:
        wanted = [choice for choice in wanted if _is_telling(model, choice)]
    running, left_out = [baseline], []
    for choice in wanted:
        reason = why_not_timed(model, choice) or (_why_left_out(choice) if choices is None else None)
        if reason is not None:
            left_out.append(LeftOut(candidate=str(choice), reason=reason))
        elif choice != baseline:
            running.append(choice)
    return running, left_out


def is_quick(choice: CandidateChoice) -> bool:
    """Whether its pace says anything: not that of PyTorch in BF16 on a CPU that has no such instructions."""
    on_torch_in_bf16 = choice.backend == BackendChoice("torch", "bf16")
    return not on_torch_in_bf16 or bool(visible_gpus()) or has_multiplier("bf16")


def find_baseline(model: Model) -> CandidateChoice:
    """PyTorch in fp32, or ONNX Runtime with the graph there is."""
    if model.has_weights or not model.precisions:
        return BASELINE
    return CandidateChoice(BackendChoice("onnxruntime", model.precisions[0]))


def why_not_timed(model: Model, choice: CandidateChoice) -> str | None:
    """Why this machine cannot run it, in one line with the way out; None if it can."""
    on_torch = choice.backend.backend == "torch"
    if choice.variant == "fixed":
        if on_torch or choice.backend == BackendChoice("onnxruntime", "bf16"):
            return f"{choice} does not exist: a fixed shape is that of an ONNX graph; leave +fixed out"
        if choice.backend.backend in TENSORRT_BACKENDS:  # its engine is built first
            return None if visible_gpus() else why_not_runnable(model, choice.backend)
    elif choice.variant == "eager":
        if not on_torch and choice.backend.backend not in TENSORRT_BACKENDS:
            return f"{choice} does not exist: +eager is of torch and of engines, which replay CUDA graphs without it"
        if not visible_gpus():
            return f"{choice} is {choice.backend} on a machine without a GPU: leave +eager out"
    elif choice.variant is not None and not on_torch:
        return f"{choice} does not exist: +{choice.variant} is of torch alone"
    elif choice.variant == "compile" and (missing := _why_not_compiled()):
        return f"{choice} {missing}"
    return why_not_runnable(model, choice.backend)


@functools.cache
def _why_not_compiled() -> str | None:
    if visible_gpus():
        return None if is_installed("triton") else "needs triton, which CUDA builds of torch bring; install one"
    compilers = [os.environ.get("CXX", ""), "g++", "clang++"]
    if any(name and shutil.which(name) for name in compilers):
        return None
    return "needs a C++ compiler, which this machine lacks; on Debian: apt-get install g++"


def _all_candidates() -> list[CandidateChoice]:
    plain = [CandidateChoice(backend) for backend in all_choices()]
    compiled = [CandidateChoice(one.backend, "compile") for one in plain if one.backend.backend == "torch"]
    eager = [CandidateChoice(one.backend, "eager") for one in plain if one.backend.backend == "torch"]
    return [BASELINE, *plain, *compiled, *(eager if visible_gpus() else [])]


def _why_left_out(choice: CandidateChoice) -> str | None:
    if choice.backend == BackendChoice("torch", "fp16") and not visible_gpus():
        return f"half precision on a CPU shows its error, not its speed; to time it all the same: --backend {choice}"
    if choice.variant is None and not is_quick(choice):
        return f"this CPU has no bf16 instructions: its pace says nothing; to time it all the same: --backend {choice}"
    if choice.backend == BackendChoice("onnxruntime", "bf16"):
        return f"it rounds FP32 results: that shows its error, not its speed; to time it still: --backend {choice}"
    if choice.variant == "compile":
        return f"compiling takes up to a minute for each shape; to time it: --backend {choice}"
    return None


def _is_telling(model: Model, choice: CandidateChoice) -> bool:
    """Whether a reader misses it: not a precision that the model has no graph of, nor one that exists nowhere."""
    backend, precision = choice.backend.backend, choice.backend.precision
    if backend == "torch":
        return precision not in QUANTIZED and (
            choice.variant != "compile" or precision != "fp16" or bool(visible_gpus())
        )
    if precision == "bf16":
        return backend == "openvino" or why_not_runnable(model, choice.backend) is None
    stored = find_graph_precision(model, choice.backend)
    return stored in model.precisions and choice.backend != BackendChoice("openvino", "fp16")
