"""ONNX Runtime: runs every graph, and is what other backends of graphs are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.backends.choice import BackendChoice, Precision
from sr_deploy.backends.description import Auto, Backend, GraphOptions, OpenedGraph, RunOptions, Variant
from sr_deploy.deps import Package

if TYPE_CHECKING:
    from sr_deploy.model import Model
    from sr_deploy.runners.protocol import Runner

PACKAGE = Package("onnxruntime", "pip install sr-deploy", ("onnxruntime", "onnxruntime-gpu"))
_ROUNDED = BackendChoice("onnxruntime", "bf16")
"""It has no such convolution: FP32 with each result rounded."""
# FP16 and FP8 it computes in FP32 on a CPU, and rounds between layers at most.
_ON_CPU: dict[Precision, Precision] = {"fp32": "fp32", "fp16": "fp32", "int8": "int8", "fp8": "fp32", "bf16": "bf16"}


def _open(model: Model, choice: BackendChoice, options: RunOptions) -> Runner:
    from sr_deploy.runners.base import require_cpu

    if options.arithmetic == "rounded" or (options.arithmetic == "fast" and choice == _ROUNDED):
        from sr_deploy.backends.onnxruntime.rounded import RoundedRunner

        require_cpu(str(choice), options.device)
        return RoundedRunner(model, choice.precision, options.threads)
    from sr_deploy.backends.onnxruntime.runner import OnnxRuntimeRunner

    return OnnxRuntimeRunner(
        model,
        choice,
        options.device,
        options.threads,
        optimize=options.arithmetic == "fast",
        rewrite=options.rewrite,
    )


def _open_graph(content: Path | bytes, options: GraphOptions) -> OpenedGraph:
    from sr_deploy.backends.onnxruntime.session import open_graph

    return open_graph(content, options)


def _describe_runs() -> tuple[str, ...]:
    from sr_deploy.backends.onnxruntime.runner import why_no_cuda_provider

    cuda = ["cuda:0 fp32 fp16"] if why_no_cuda_provider() is None else []
    return ("cpu fp32 fp16 (computed in fp32) int8 fp8 (computed in fp32)", *cuda)


def _why_untimed(choice: BackendChoice) -> str | None:
    return "it rounds FP32 results: that shows its error, not its speed" if choice == _ROUNDED else None


BACKEND = Backend(
    name="onnxruntime",
    package=PACKAGE,
    artifact="graph",
    precisions={"cpu": _ON_CPU, "cuda": {"fp32": "fp32", "fp16": "fp16"}},
    open=_open,
    order=1,
    is_reference=True,
    describe_runs=_describe_runs,
    why_untimed=_why_untimed,
    auto={"cpu": Auto(1, (BackendChoice("onnxruntime", "int8"),))},
    variants=(Variant("fixed", precisions=("fp32", "fp16", "int8", "fp8")),),
    open_graph=_open_graph,
    triton="onnxruntime",
)
