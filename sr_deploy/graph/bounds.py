"""Whether what a graph computes is in proportion to its picture and its file: looked at before any backend opens it.

Backends compute what does not depend on the picture while they load a graph, whatever memory and time that takes. A
file of 300 bytes can ask for a terabyte.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sr_deploy.graph.arithmetic import EVALUATED
from sr_deploy.graph.check import OWN_DOMAINS
from sr_deploy.graph.cost import count_node_multiply_adds
from sr_deploy.graph.order import names_read_inside, walk_nodes
from sr_deploy.graph.receptive_field.propagate import SUPPORTED
from sr_deploy.graph.tensors import BITS, bytes_of, show_dims
from sr_deploy.legible import show_value

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

    from sr_deploy.graph.shapes import InferredShapes

_FRACTIONS = frozenset((1, 10, 11, 16))  # FP32, FP16, FP64, BF16
# fmt: off
_PREDICTABLE = EVALUATED | SUPPORTED | frozenset((
    "Acos", "Acosh", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh", "DynamicQuantizeLinear",
    "Expand", "GatherElements", "GatherND", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "GridSample",
    "GroupNormalization", "Hardmax", "If", "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LayerNormalization",
    "LogSoftmax", "LpNormalization", "MatMul", "MatMulInteger", "MeanVarianceNormalization", "QLinearMatMul",
    "RMSNormalization", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceSumSquare",
    "ScatterElements", "ScatterND", "Shape", "Shrink", "Sin", "Sinh", "Size", "Softmax", "Tan", "Tile", "Trilu", "Xor",
))
# fmt: on
"""Operators whose memory and time follow from the shapes of what they take and make."""
_ONE_FIXED, _ONE_EACH = 2**25, 2**18
"""Bytes that any tensor may take, and for each pixel of the input; attention over small pictures comes nearest."""
_ALL_FIXED, _ALL_EACH = 2**28, 2**24
"""The same, all tensors of a graph together."""
_WORK_FIXED, _WORK_EACH = 10**10, 10**9
"""Multiply-adds, and for each pixel of the input; the largest published transformers need a seventh of it."""
_STORED = 16
"""Times the bytes of the stored tensors that what is computed from them alone may take: INT8 weights become FP32, and
may be transposed and padded on the way."""


def find_largest(shapes: InferredShapes) -> int:
    """Bytes of the largest tensor whose shape is known."""
    return max((_count_bytes(facts.shape, facts.dtype) for facts in shapes.tensors.values() if facts.shape), default=0)


def _count_bytes(shape: tuple[int, ...], dtype: int) -> int:
    return math.prod(shape) * max(BITS.get(dtype, 64) // 8, 1)


def find_unpredictable(graph: GraphProto, shapes: InferredShapes) -> str | None:
    """What of a graph leaves open how much memory and time it takes, in words; None if nothing does."""
    nodes = list(walk_nodes(graph))
    for node in nodes:
        if node.domain not in OWN_DOMAINS or node.op_type not in _PREDICTABLE:
            return f"the operator {show_value(node.op_type)[1:-1]} is not followed"
        if node.op_type in ("Div", "Mod") and node.input[1] not in shapes.constants and _is_whole(node, shapes):
            return f"what {show_value(node.output[0])} divides integers by is unknown"
    unknown = next((name for node in nodes for name in node.output if name and shapes.shape(name) is None), None)
    return None if unknown is None else f"the shape of {show_value(unknown)} is unknown"


def _is_whole(node: NodeProto, shapes: InferredShapes) -> bool:
    facts = shapes.tensors.get(node.output[0])
    return facts is not None and facts.dtype not in _FRACTIONS


def check_bounds(graph: GraphProto, input_name: str, shapes: InferredShapes) -> None:
    """Refuse a graph that takes memory or time out of all proportion, as far as its shapes are known.

    Raises:
        ValueError: one line that names the tensor, as in `tensor 'y' would take 8589934592 bytes`.
    """
    n, _, h, w = shapes.input_shape
    stored = sum(bytes_of(tensor) for tensor in graph.initializer)
    image, constant = _Account(n * h * w, 0), _Account(0, stored)
    seen = {input_name}
    for node in walk_nodes(graph):
        depends = not seen.isdisjoint(node.input) or not seen.isdisjoint(names_read_inside(node))
        if depends and node.op_type not in ("Shape", "Size"):
            seen.update(node.output)
        account = image if depends else constant
        account.work += count_node_multiply_adds(node, shapes)
        for name in node.output:
            facts = shapes.tensors.get(name)
            if facts is not None and facts.shape is not None:
                account.add(name, facts.shape, _count_bytes(facts.shape, facts.dtype))
        account.check(node)


class _Account:
    """What has been asked for so far."""

    def __init__(self, pixels: int, stored: int) -> None:
        self._each = _ONE_FIXED + _ONE_EACH * pixels + _STORED * stored
        self._all = _ALL_FIXED + _ALL_EACH * pixels + _STORED * stored
        self._most_work = _WORK_FIXED + _WORK_EACH * pixels
        self._bytes = 0
        self.work = 0

    def add(self, name: str, shape: tuple[int, ...], size: int) -> None:
        self._bytes += size
        if size > self._each or self._bytes > self._all:
            raise ValueError(
                f"tensor {show_value(name)} of {show_dims(shape)} would take {size:,} bytes, and {self._bytes:,} with "
                "those before it, out of all proportion to the picture and the file"
            )

    def check(self, node: NodeProto) -> None:
        if self.work > self._most_work:
            raise ValueError(
                f"up to node {show_value(node.name or node.output[0])} it takes {self.work:,} multiply-adds, out of "
                "all proportion to the picture"
            )
