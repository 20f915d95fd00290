"""What a graph costs: multiply-adds and their precision, parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from sr_deploy.backends import PRECISIONS, Precision

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

    from sr_deploy.graph.shapes import InferredShapes

_PRECISION_OF_TYPE: dict[int, Precision] = {1: "fp32", 10: "fp16", 16: "bf16", 2: "int8", 3: "int8"}
# Operators that multiply and add, with the positions of their data and their weight.
_OPERANDS = {
    "Conv": (0, 1),
    "ConvTranspose": (0, 1),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "ConvInteger": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearConv": (0, 3),
    "QLinearMatMul": (0, 3),
}
# Where trained numbers go in; the statistics of a batch normalisation are measured, not trained.
_TRAINED_INPUTS = {
    **{name: (1, 2) for name in ("Conv", "ConvTranspose", "Gemm", "InstanceNormalization", "LayerNormalization")},
    "BatchNormalization": (1, 2),
    "ConvInteger": (1,),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "PRelu": (1,),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (0, 3),
}
_TRANSPARENT = frozenset(
    {"Cast", "DequantizeLinear", "Identity", "QuantizeLinear", "Reshape", "Transpose", "Unsqueeze"}
)


@dataclass(frozen=True)
class GraphCost:
    """What a graph needs for each pixel of its input."""

    parameters: int
    """Trained numbers that reach convolutions, normalisations and activations."""
    flops_per_input_pixel: float
    """Floating-point operations of convolutions and matrix products, two for each multiply-add."""
    receptive_radius: int | None
    """Input pixels on each side of an output pixel's own that can change it. None where there is no such bound
    (attention, statistics over the image) or an operator is not followed."""
    precision_share: dict[Precision, float]
    """Share of the multiply-adds in each precision, 0 to 1; those without any are left out."""
    nodes: int
    """Nodes of the graph."""


def count_multiply_adds(graph: GraphProto, shapes: InferredShapes) -> dict[Precision, Fraction]:
    """Multiply-adds per input pixel, by precision.

    A product counts as int8 when data and weight are both quantised (they come from DequantizeLinear, or the operator
    is one of whole numbers), else in the type of its weight.
    """
    producers = {name: node for node in graph.node for name in node.output}
    pixels = shapes.input_shape[0] * shapes.input_shape[2] * shapes.input_shape[3]
    counted: dict[Precision, Fraction] = {}
    for node in graph.node:
        if node.op_type in _OPERANDS:
            amount = Fraction(_multiply_adds(node, shapes), pixels)
            precision = _find_precision(node, producers, shapes)
            counted[precision] = counted.get(precision, Fraction(0)) + amount
    return {precision: counted[precision] for precision in PRECISIONS if counted.get(precision)}


def count_parameters(graph: GraphProto) -> int:
    """Elements of the constants that trained inputs are fed from; one that is used twice counts once."""
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    producers = {}
    for node in graph.node:
        for name in node.output:
            producers[name] = node
        if node.op_type == "Constant":
            sizes[node.output[0]] = math.prod(node.attribute[0].t.dims)
    trained = {source for name in _trained_inputs(graph) if (source := _find_source(name, producers)) in sizes}
    return sum(sizes[name] for name in trained)


def _trained_inputs(graph: GraphProto) -> Iterator[str]:
    for node in graph.node:
        for position in _TRAINED_INPUTS.get(node.op_type, ()):
            if position < len(node.input):
                yield node.input[position]


def _find_source(name: str, producers: dict[str, NodeProto]) -> str:
    """The tensor that `name` is a cast, rescaled or rearranged form of."""
    while name in producers and producers[name].op_type in _TRANSPARENT:
        name = producers[name].input[0]
    return name


def _multiply_adds(node: NodeProto, shapes: InferredShapes) -> int:
    data, weight = (node.input[position] for position in _OPERANDS[node.op_type])
    weight_shape = shapes.shape(weight)
    counted_at = data if node.op_type == "ConvTranspose" else node.output[0]
    sides = shapes.shape(counted_at)
    if weight_shape is None or sides is None:
        return 0
    if "Conv" in node.op_type:
        # Every weight meets every pixel: of the output, or of the input where the convolution is transposed.
        return math.prod(weight_shape) * sides[0] * math.prod(sides[2:])
    summed = shapes.shape(data)
    return math.prod(sides) * (summed[-1] if summed else 0)


def _find_precision(node: NodeProto, producers: dict[str, NodeProto], shapes: InferredShapes) -> Precision:
    operands = [node.input[position] for position in _OPERANDS[node.op_type]]
    if all(_is_dequantised(name, producers) for name in operands):
        return "int8"
    facts = shapes.tensors.get(operands[1])
    known = _PRECISION_OF_TYPE.get(facts.dtype) if facts else None
    if known is None:
        # Shape inference gave no type: that of the operator's result is the same for floating-point operators.
        result = shapes.tensors.get(node.output[0])
        known = _PRECISION_OF_TYPE.get(result.dtype) if result else None
    return known or "fp32"


def _is_dequantised(name: str, producers: dict[str, NodeProto]) -> bool:
    while name in producers and producers[name].op_type in ("Cast", "Identity", "Transpose", "Reshape"):
        name = producers[name].input[0]
    return name in producers and producers[name].op_type == "DequantizeLinear"
