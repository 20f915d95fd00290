"""What of a model there is to verify, and what of that this machine cannot run. No torch here."""

from __future__ import annotations

from collections.abc import Sequence

from sr_deploy.backends import INT8_BF16, TENSORRT_BACKENDS, Backend, BackendChoice
from sr_deploy.bundle import NotRun
from sr_deploy.model import Model
from sr_deploy.verify.engines import find_engines
from sr_deploy.verify.fp16 import TRUE_FP16, why_not_candidate

GRAPH_BACKENDS: tuple[Backend, ...] = ("onnxruntime", "openvino")
"""Those that run an ONNX graph as it is."""


def list_candidates(model: Model) -> list[BackendChoice]:
    """What there is to verify, runnable or not."""
    precisions = model.precisions
    if not precisions:
        return [BackendChoice("torch", "fp16"), BackendChoice("torch", "bf16")] if model.has_weights else []
    found = []
    for precision in precisions:
        if precision == "bf16":
            # No CPU backend has BF16 convolutions: the graph is run in FP32 with each result rounded. The others
            # compute the same arithmetic from the weights and the FP32 graph.
            found.append(BackendChoice("onnxruntime", "bf16"))
            found += [BackendChoice("torch", "bf16")] if model.has_weights else []
            found += [BackendChoice("openvino", "bf16")] if "fp32" in precisions else []
            continue
        # OpenVINO's CPU plugin computes FP16 graphs in FP32: it would say nothing about them as FP16.
        backends = ("onnxruntime",) if precision == "fp16" else GRAPH_BACKENDS
        found += [BackendChoice(backend, precision) for backend in backends]
        if precision == "int8" and model.bundle is not None and why_not_candidate(model, INT8_BF16) is None:
            found.append(INT8_BF16)
        if precision == "fp16":
            found.append(TRUE_FP16)
            found += [] if "fp32" in precisions else [BackendChoice("openvino", "fp32")]
    folder = find_engines(model)
    engines = folder.engines() if folder is not None else ()
    found += [BackendChoice(record.backend, record.precision) for record in engines]
    return list(dict.fromkeys(found))


def list_not_run(model: Model, choices: Sequence[BackendChoice] | None = None) -> list[NotRun]:
    """What of a model this machine cannot verify, and why: backends that are absent, engines without their GPU.

    Args:
        model: what to look at.
        choices: look at these only.
    """
    missing = []
    for choice in list_candidates(model):
        if (choices is not None and choice not in choices) or choice.backend in TENSORRT_BACKENDS:
            continue
        reason = why_not_candidate(model, choice)
        if reason is not None:
            missing.append(NotRun(what=str(choice), reason=reason))
    folder = find_engines(model)
    for record in folder.engines() if folder is not None else ():
        choice = BackendChoice(record.backend, record.precision)
        reason = why_not_candidate(model, choice)
        if reason is not None and (choices is None or choice in choices):
            what = f"{choice} {record.engine.file} ({record.target})"
            missing.append(NotRun(what=what, file=record.engine.file, reason=reason))
    return missing
