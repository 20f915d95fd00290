"""What a graph costs: multiply-adds and their precision, parameters, and the bytes that each layer moves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from sr_deploy.backends import PRECISIONS, Precision
from sr_deploy.errors import GraphError
from sr_deploy.graph.io_dtype import PROBE_NAME
from sr_deploy.graph.load import name_of, read_text
from sr_deploy.graph.tensors import BITS, FP8_TYPES

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

    from sr_deploy.graph.shapes import InferredShapes

_PRECISION_OF_TYPE: dict[int, Precision] = {1: "fp32", 10: "fp16", 16: "bf16", 2: "int8", 3: "int8"}
_PRECISION_OF_TYPE |= dict.fromkeys(FP8_TYPES, "fp8")
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
    "Einsum": (0, 1),
}
# Where trained numbers go in; the statistics of a batch normalization are measured, not trained.
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
# They give the same bytes another shape, or none at all: nothing is moved.
_VIEWS = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_TRANSPARENT = frozenset(
    {"Cast", "DequantizeLinear", "Identity", "QuantizeLinear", "Reshape", "Transpose", "Unsqueeze"}
)


@dataclass(frozen=True)
class GraphCost:
    """What a graph needs for each pixel of its input."""

    parameters: int
    """Trained numbers that reach convolutions, normalizations and activations."""
    flops_per_input_pixel: float | None
    """Floating-point operations of convolutions and matrix products, two for each multiply-add; None where shapes
    inside the graph are unknown."""
    receptive_radius: int | None
    """Input pixels on each side of an output pixel's own that can change it. None where there is no such bound
    (attention, statistics over the image) or an operator is not followed."""
    precision_share: dict[Precision, float]
    """Share of the multiply-adds in each precision, 0 to 1; those without any are left out."""
    nodes: int
    bytes_per_input_pixel: float | None
    """Bytes of images and feature maps that its nodes read and write, one after the other as they stand; weights, which
    do not grow with the picture, are not counted. None where the shape of a tensor is unknown."""


@dataclass(frozen=True)
class LayerCost:
    """What one node does and moves, for one shape of the input."""

    name: str
    """The node's, or that of its first output."""
    op: str
    """Operator, as in `Conv`."""
    precision: Precision | None
    """Declared: of the multiply-adds, or else of the result; None for results of other types (`uint8`, indices)."""
    flops: int
    """Floating-point operations of convolutions and matrix products, two for each multiply-add; others count as 0."""
    share: float
    """Of the whole graph's multiply-adds, 0 to 1."""
    bytes_read: int
    """Of images and feature maps; a tensor that is read twice by the node counts once."""
    bytes_written: int
    """Of its results; 0 for what only gives a tensor another shape."""
    weight_bytes: int
    """Of its constants, as they are stored."""
    output_shape: tuple[int, ...]
    """Of its first result."""

    @property
    def bytes_moved(self) -> int:
        """Read, written and weights."""
        return self.bytes_read + self.bytes_written + self.weight_bytes


@dataclass(frozen=True)
class LayerTotals:
    """Sums over layers."""

    flops: int
    bytes_read: int
    bytes_written: int
    weight_bytes: int

    @property
    def bytes_moved(self) -> int:
        """Read, written and weights."""
        return self.bytes_read + self.bytes_written + self.weight_bytes


def sum_layers(layers: Iterable[LayerCost]) -> LayerTotals:
    """The whole graph's."""
    counted = list(layers)
    return LayerTotals(
        flops=sum(layer.flops for layer in counted),
        bytes_read=sum(layer.bytes_read for layer in counted),
        bytes_written=sum(layer.bytes_written for layer in counted),
        weight_bytes=sum(layer.weight_bytes for layer in counted),
    )


def cost_layers(graph: GraphProto, input_name: str, shapes: InferredShapes) -> tuple[LayerCost, ...]:
    """Every node that computes on the image, in the graph's order; what only computes shapes and constants is left out.

    Raises:
        GraphError: the shape or type of a tensor is unknown.
    """
    producers = {name: node for node in graph.node for name in node.output}
    stored = _Stored(graph, producers)
    work = {id(node): 2 * count_node_multiply_adds(node, shapes) for node in graph.node}
    total = sum(work.values()) or 1
    seen = {input_name}
    layers = []
    for node in graph.node:
        if node.op_type in ("Shape", "Size") or seen.isdisjoint(node.input):
            continue
        seen.update(node.output)
        if node.name == PROBE_NAME:
            continue
        moves = node.op_type not in _VIEWS
        images = [name for name in dict.fromkeys(node.input) if name in seen]
        layers.append(
            LayerCost(
                name=name_of(node),
                op=node.op_type,
                precision=_find_declared(node, producers, shapes),
                flops=work[id(node)],
                share=work[id(node)] / total,
                bytes_read=sum(_size_in_bytes(name, shapes) for name in images) if moves else 0,
                bytes_written=sum(_size_in_bytes(name, shapes) for name in node.output if name) if moves else 0,
                weight_bytes=stored.count_bytes(name for name in node.input if name not in seen),
                output_shape=shapes.shape(node.output[0]) or (),
            )
        )
    return tuple(layers)


class _Stored:
    """The constants of a graph, and which of them a tensor that does not depend on the image is made of."""

    def __init__(self, graph: GraphProto, producers: dict[str, NodeProto]) -> None:
        stored = _stored_tensors(graph).items()
        self._bytes = {name: math.prod(one.dims) * BITS.get(one.data_type, 0) // 8 for name, one in stored}
        self._producers = producers

    def count_bytes(self, names: Iterable[str]) -> int:
        """Bytes of all constants that the tensors are computed from, each once."""
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in self._bytes:
                found.add(name)
            elif name in self._producers and self._producers[name].op_type not in ("Shape", "Size"):
                waiting += self._producers[name].input
        return sum(self._bytes[name] for name in found)


def _size_in_bytes(name: str, shapes: InferredShapes) -> int:
    facts = shapes.tensors.get(name)
    if facts is None or facts.shape is None or facts.dtype not in BITS:
        raise GraphError(f"the shape or type of tensor {name!r} cannot be inferred, so the bytes it takes are unknown")
    return -(-math.prod(facts.shape) * BITS[facts.dtype] // 8)


def _find_declared(node: NodeProto, producers: dict[str, NodeProto], shapes: InferredShapes) -> Precision | None:
    if multiplies(node):
        return _find_precision(node, producers, shapes)
    facts = shapes.tensors.get(node.output[0])
    if facts is None or (facts.dtype in (2, 3) and node.op_type != "QuantizeLinear"):
        return None
    return _PRECISION_OF_TYPE.get(facts.dtype)


def count_multiply_adds(graph: GraphProto, shapes: InferredShapes) -> dict[Precision, Fraction]:
    """Multiply-adds per input pixel, by precision.

    A product counts as int8 or fp8 when data and weight are both quantized (they come from DequantizeLinear, and the
    weight was stored so, or the operator is one of integers), else in the type of its weight.
    """
    producers = {name: node for node in graph.node for name in node.output}
    pixels = shapes.input_shape[0] * shapes.input_shape[2] * shapes.input_shape[3]
    counted: dict[Precision, Fraction] = {}
    for node in graph.node:
        if multiplies(node):
            amount = Fraction(count_node_multiply_adds(node, shapes), pixels)
            precision = _find_precision(node, producers, shapes)
            counted[precision] = counted.get(precision, Fraction(0)) + amount
    return {precision: counted[precision] for precision in PRECISIONS if counted.get(precision)}


def count_parameters(graph: GraphProto) -> int:
    """Elements of the constants that trained inputs are fed from; one that is used twice counts once."""
    sizes = {name: math.prod(tensor.dims) for name, tensor in _stored_tensors(graph).items()}
    producers = {name: node for node in graph.node for name in node.output}
    trained = {source for name in _trained_inputs(graph) if (source := _find_source(name, producers)) in sizes}
    return sum(sizes[name] for name in trained)


def _stored_tensors(graph: GraphProto) -> dict[str, TensorProto]:
    """The constants by name, those of nodes too; one that is a number or a list is a tensor without sides or type."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    return stored | {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}


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


def multiplies(node: NodeProto) -> bool:
    """Whether a node is one of those whose multiply-adds are counted; of Einsum those with two operands."""
    return node.op_type in _OPERANDS and (node.op_type != "Einsum" or len(node.input) == 2)


def _count_einsum(node: NodeProto, shapes: InferredShapes) -> int:
    """Of every combination of its letters one, as `nchw,ncjw->nchj` has N C H W J; 0 with an ellipsis."""
    terms = read_text(node, "equation", "").replace(" ", "").partition("->")[0].split(",")
    dims: dict[str, int] = {}
    for term, name in zip(terms, node.input, strict=False):
        shape = shapes.shape(name)
        if shape is None or len(shape) != len(term) or not term.isalpha():
            return 0
        for letter, side in zip(term, shape, strict=True):
            dims[letter] = max(dims.get(letter, 1), side)
    return math.prod(dims.values()) if dims else 0


def count_node_multiply_adds(node: NodeProto, shapes: InferredShapes) -> int:
    """Multiply-adds of one node; 0 where a shape is unknown, and for operators that have none."""
    if not multiplies(node):
        return 0
    data, weight = (node.input[position] for position in _OPERANDS[node.op_type])
    if node.op_type == "Einsum":
        return _count_einsum(node, shapes)
    weight_shape = shapes.shape(weight)
    counted_at = data if node.op_type == "ConvTranspose" else node.output[0]
    dims = shapes.shape(counted_at)
    if weight_shape is None or dims is None:
        return 0
    if "Conv" in node.op_type:
        # Every weight meets every pixel: of the output, or of the input where the convolution is transposed.
        return math.prod(weight_shape) * dims[0] * math.prod(dims[2:])
    summed = shapes.shape(data)
    return math.prod(dims) * (summed[-1] if summed else 0)


def _find_precision(node: NodeProto, producers: dict[str, NodeProto], shapes: InferredShapes) -> Precision:
    operands = [node.input[position] for position in _OPERANDS[node.op_type]]
    quantized = [_find_quantized(name, producers) for name in operands]
    if all(quantized):
        facts = shapes.tensors.get(quantized[1])
        return "fp8" if facts is not None and facts.dtype in FP8_TYPES else "int8"
    facts = shapes.tensors.get(operands[1])
    known = _PRECISION_OF_TYPE.get(facts.dtype) if facts else None
    if known is None:
        # Shape inference gave no type: that of the operator's result is the same for floating-point operators.
        result = shapes.tensors.get(node.output[0])
        known = _PRECISION_OF_TYPE.get(result.dtype) if result else None
    return known or "fp32"


def _find_quantized(name: str, producers: dict[str, NodeProto]) -> str:
    """The tensor that `name` is dequantized from; empty: it is not."""
    while name in producers and producers[name].op_type in ("Cast", "Identity", "Transpose", "Reshape"):
        name = producers[name].input[0]
    maker = producers.get(name)
    return maker.input[0] if maker is not None and maker.op_type == "DequantizeLinear" else ""
