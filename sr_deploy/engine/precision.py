"""Proof of precision: which layers of an engine, or of a graph, compute in another precision than planned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sr_deploy.backends import QUANTIZED, Precision
from sr_deploy.bundle import EngineRecord, GraphRecord
from sr_deploy.graph.cost import LayerCost
from sr_deploy.graph.read import describe_layers, read_graph

PRECISION_OF_TYPE: dict[str, Precision] = {
    "FLOAT": "fp32",
    "HALF": "fp16",
    "BF16": "bf16",
    "INT8": "int8",
    "FP8": "fp8",
}
"""Our words for the SDKs'."""

# What layers of a graph of some precision may compute in. The other half of an INT8 or FP8 graph is FP16.
_ALLOWED: dict[Precision, tuple[Precision, ...]] = {
    "fp32": ("fp32",),
    "fp16": ("fp16",),
    "bf16": ("bf16",),
    "int8": ("int8", "fp16"),
    "fp8": ("fp8", "fp16"),
}
_SIDES = 16


def find_unplanned(record: EngineRecord, graph: GraphRecord) -> list[str]:
    """What an engine's record declares that the graph's record does not plan, one line each; empty if all is planned.

    Args:
        record: of the engine.
        graph: of the graph that the engine is said to be of.
    """
    if record.declared:
        return judge_layers(record.declared, graph.precision, graph.planned_fp32)
    # Written before layers were recorded by name: only the kinds of convolutions can be judged.
    allowed = _ALLOWED[graph.precision] + (("fp32",) if graph.planned_fp32 else ())
    kinds = {PRECISION_OF_TYPE.get(kind, kind): count for kind, count in record.convolution_precisions.items()}
    return [
        f"{count} convolution(s) compute in {seen}, and the graph is to be {graph.precision}"
        for seen, count in kinds.items()
        if seen not in allowed
    ]


def find_unplanned_nodes(path: Path, graph: GraphRecord) -> list[str]:
    """The same from the ONNX file itself, which takes no engine.

    Raises:
        GraphError: the graph cannot be read, or its shapes cannot be inferred.
    """
    declared = {layer.name: layer.precision for layer in list_work(path) if layer.precision is not None}
    return judge_layers(declared, graph.precision, graph.planned_fp32)


def judge_layers(declared: Mapping[str, Precision], precision: Precision, planned_fp32: tuple[str, ...]) -> list[str]:
    """Layers that compute in another precision than the graph's, one line each.

    Args:
        declared: precision of every layer that multiplies and adds, by the name of its ONNX node.
        precision: the graph's.
        planned_fp32: nodes that stay in FP32 on purpose.
    """
    allowed, planned = _ALLOWED[precision], set(planned_fp32)
    unplanned = [
        f"{name} computes in {seen}, and the graph is to be {precision}"
        for name, seen in declared.items()
        if seen not in allowed and not (seen == "fp32" and name in planned)
    ]
    if precision in QUANTIZED and declared and precision not in declared.values():
        unplanned.append(f"no layer computes in {precision}, and the graph is to be {precision}")
    return unplanned


def list_work(path: Path) -> list[LayerCost]:
    """The layers of an ONNX file that multiply and add, with their share of all multiply-adds.

    Raises:
        GraphError: the graph cannot be read, or its shapes cannot be inferred.
    """
    info = read_graph(path)
    side = _SIDES * info.input_multiple
    n, _, h, w = info.input_shape
    return [layer for layer in describe_layers(path, (n or 1, h or side, w or side)) if layer.flops]


def share_multiply_adds(declared: Mapping[str, Precision], work: list[LayerCost]) -> dict[str, float]:
    """Share of the multiply-adds in each precision, 0 to 1, the largest first.

    Args:
        declared: as in `judge_layers`.
        work: of the graph that the layers come from.
    """
    shares: dict[str, float] = {}
    # Nodes without names get some from the parser, which keeps their order.
    by_order = len(declared) == len(work) and not all(layer.name in declared for layer in work)
    seen = list(declared.values()) if by_order else [declared.get(layer.name) for layer in work]
    for layer, precision in zip(work, seen, strict=True):
        if precision is not None:
            shares[precision] = shares.get(precision, 0.0) + layer.share
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
