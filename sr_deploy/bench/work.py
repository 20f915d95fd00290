"""What a candidate has to do for one call: operations and bytes, from the graph or the architecture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sr_deploy.backends import Precision
from sr_deploy.backends.description import DeviceKind
from sr_deploy.backends.registry import get_backend
from sr_deploy.bench.choices import CandidateChoice
from sr_deploy.bench.report import Roofline
from sr_deploy.bundle import Shape
from sr_deploy.errors import GraphError, ShapeError
from sr_deploy.graph.cost import LayerCost, sum_layers
from sr_deploy.measure.peak import Peaks
from sr_deploy.model import Model
from sr_deploy.runners.choose import find_graph_precision

_BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}
_IO_BYTES = {"float32": 4, "float16": 2, "uint8": 1, "uint16": 2}


@dataclass(frozen=True)
class Work:
    """One call's."""

    flops: Mapping[Precision, float]
    """Operations of convolutions and matrix products by the precision that they are computed in, two for each
    multiply-add."""
    least_bytes: int
    """Input, output and weights, each once."""
    layer_bytes: int | None
    """What the layers move one by one; None where no graph tells."""


def find_work(model: Model, choice: CandidateChoice, shape: Shape, on_cpu: bool) -> Work | None:
    """Count; None where neither the graph nor the architecture tells."""
    backend, precision = get_backend(choice.backend.backend), choice.backend.precision
    throughout = precision in backend.uniform
    stored = find_graph_precision(model, choice.backend)
    if throughout and stored == precision:  # the network of the FP32 graph, in another type
        stored = "fp32"
    dtype = "float32" if backend.artifact == "weights" else model.input_dtype
    pixels = shape.n * shape.h * shape.w
    io_bytes = pixels * model.channels * (1 + model.scale**2) * _IO_BYTES[dtype]
    layers = _read_layers(model, stored, shape)
    if layers is None:
        return _work_of_architecture(model, precision, pixels, io_bytes)
    totals = sum_layers(layers)
    device: DeviceKind = "cpu" if on_cpu else "cuda"
    flops: Counter[Precision] = Counter()
    for layer in layers:
        if layer.flops and layer.precision is not None:
            flops[backend.computes_in(precision if throughout else layer.precision, device)] += layer.flops
    share = _BYTES[precision] / _BYTES[stored] if throughout else 1
    moved = totals.bytes_read + totals.bytes_written + totals.weight_bytes
    return Work(flops, io_bytes + int(totals.weight_bytes * share), int(moved * share))


def describe_roofline(work: Work, seconds: float, peaks: Peaks | None) -> Roofline:
    """What a call of `seconds` makes of the machine."""
    total = sum(work.flops.values())
    arithmetic = _least_seconds(work, peaks)
    memory = work.least_bytes / peaks.copy_gb_per_second / 1e9 if peaks else 0.0
    least = None if arithmetic is None else max(arithmetic, memory)
    return Roofline(
        gflops_per_second=total / seconds / 1e9,
        precision_share={precision: flops / total for precision, flops in work.flops.items()} if total else {},
        least_bytes=work.least_bytes,
        layer_bytes=work.layer_bytes,
        limit=None if least is None else "arithmetic" if least == arithmetic else "memory",
        share=None if least is None else least / seconds,
    )


def _least_seconds(work: Work, peaks: Peaks | None) -> float | None:
    """For the operations alone, at the measured peaks; None where one is unknown."""
    if peaks is None or not peaks.matrix_gflops.keys() >= work.flops.keys():
        return None
    return sum(flops / peaks.matrix_gflops[precision] / 1e9 for precision, flops in work.flops.items())


def _read_layers(model: Model, precision: Precision, shape: Shape) -> Sequence[LayerCost] | None:
    from sr_deploy.graph.read import describe_layers

    if precision not in model.precisions:
        return None
    try:
        return describe_layers(model.graph_path(precision), shape)
    except (GraphError, ShapeError):
        return None  # the shapes inside cannot be inferred, or the graph is of another shape than its engine


def _work_of_architecture(model: Model, precision: Precision, pixels: int, io_bytes: int) -> Work | None:
    if model.arch is None:
        return None
    from sr_deploy.arch.registry import describe_cost

    cost = describe_cost(model.arch)
    flops: dict[Precision, float] = {precision: cost.flops_per_input_pixel * pixels}
    return Work(flops, io_bytes + cost.parameters * _BYTES[precision], None)
