"""OpenVINO's CPU plugin: the fastest on most CPUs in FP32, BF16 and INT8."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.backends.choice import BackendChoice, Precision
from sr_deploy.backends.description import Auto, Backend, GraphOptions, OpenedGraph, RunOptions, Variant
from sr_deploy.deps import Package

if TYPE_CHECKING:
    from sr_deploy.model import Model
    from sr_deploy.runners.protocol import Runner

PACKAGE = Package("openvino", "pip install 'sr-deploy[openvino]'", reporter="openvino_telemetry")
_INT8_BF16 = BackendChoice("openvino", "int8", "bf16")
_BF16 = BackendChoice("openvino", "bf16")


def _open(model: Model, choice: BackendChoice, options: RunOptions) -> Runner:
    from sr_deploy.backends.openvino.runner import OpenVinoRunner

    return OpenVinoRunner(model, choice, options.device, options.threads, rewrite=options.rewrite)


def _open_graph(content: Path | bytes, options: GraphOptions) -> OpenedGraph:
    from sr_deploy.backends.openvino.compiled import open_graph

    return open_graph(content, options)


def _why_absent(_choice: BackendChoice) -> str:
    return (
        "openvino:fp16 would be no FP16: OpenVINO's CPU plugin computes FP16 graphs in FP32; "
        "use openvino:fp32, openvino:bf16 or onnxruntime:fp16"
    )


def _why_not_here(choice: BackendChoice) -> str | None:
    from sr_deploy.backends.openvino.runner import why_not_computed

    return why_not_computed(choice)


def _describe_runs() -> tuple[str, ...]:
    in_bf16 = _why_not_here(_BF16) is None
    mixed = " int8+bf16" if in_bf16 else ""
    return (f"cpu fp32{' bf16' if in_bf16 else ''} int8{mixed} fp8 (computed in fp32)",)


def find_stored(held: Collection[Precision], precision: Precision) -> Precision:
    """It computes in FP32 and BF16 what is stored in FP32, or in FP16 where there is nothing else."""
    if precision not in ("fp32", "bf16"):
        return precision
    return "fp16" if "fp16" in held and "fp32" not in held else "fp32"


def _find_verified(held: Collection[Precision], precision: Precision) -> tuple[Precision, ...]:
    """FP16 graphs it computes in FP32, which says nothing of them as FP16, and in BF16 it computes the FP32 graph."""
    if precision == "bf16":
        return ("bf16",) if "fp32" in held else ()
    if precision == "fp16":
        return () if "fp32" in held else ("fp32",)
    return (precision,)


def _is_exact(precision: Precision) -> bool:
    """For INT8 where the CPU multiplies INT8.

    Without such instructions (VNNI and its like) OpenVINO 2026.4 seems to add products in 16 bits, where they saturate:
    on a CPU with AVX2 alone single convolutions of the tests are off by up to 2.6, of results up to 3. What it says
    there is true of that CPU, not of the graph. FP8 it computes in FP32, and takes longer for it than ONNX Runtime.
    """
    from sr_deploy.measure.machine import has_multiplier

    return precision == "int8" and has_multiplier("int8")


BACKEND = Backend(
    name="openvino",
    package=PACKAGE,
    artifact="graph",
    precisions={"cpu": {"fp32": "fp32", "bf16": "bf16", "int8": "int8", "fp8": "fp32"}},
    open=_open,
    order=2,
    why_absent=_why_absent,
    why_not_here=_why_not_here,
    describe_runs=_describe_runs,
    find_stored=find_stored,
    uniform=("fp32", "bf16"),
    mixed=(_INT8_BF16,),
    auto={"cpu": Auto(0, (_INT8_BF16, BackendChoice("openvino", "int8"), _BF16))},
    variants=(Variant("fixed"),),
    find_verified=_find_verified,
    open_graph=_open_graph,
    is_exact=_is_exact,
)
