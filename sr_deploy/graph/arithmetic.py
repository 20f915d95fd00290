"""Evaluating what exporters compute shapes with: single nodes on small values, and nothing that becomes large."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sr_deploy.graph.check import is_operator
from sr_deploy.graph.load import read_integer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

SMALL_RESULT = 1024
"""Elements up to which values are kept: shapes, scales and pads are small, weights are not."""
# fmt: off
_OTHERS = frozenset((
    "Abs", "Cast", "CastLike", "Ceil", "Concat", "Constant", "ConstantOfShape", "Expand", "Flatten", "Floor", "Gather",
    "Identity", "Neg", "Not", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Round", "Sign",
    "Slice", "Sqrt", "Squeeze", "Transpose", "Unsqueeze",
))
_BROADCASTING = frozenset((
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Or",
    "Pow", "Sub", "Where",
))
# fmt: on
_TOO_LARGE = 2**62  # to be counted in 64 bits
EVALUATED = _OTHERS | _BROADCASTING


def evaluate_node(
    node: NodeProto,
    opset: int,
    known: Mapping[str, NDArray[np.generic]],
    find_shape: Callable[[str], tuple[int, ...] | None],
) -> list[NDArray[np.generic]] | None:
    """The results of a node that is shape arithmetic, if its inputs are known and its results are small; else None.

    Args:
        node: one of the graph's.
        opset: of ONNX, that the graph uses.
        known: values, by name.
        find_shape: gives the shape of a tensor, by name; None where it is unknown.
    """
    if not is_operator(node):
        return None
    if node.op_type in ("Shape", "Size"):
        shape = find_shape(node.input[0])
        return None if shape is None or math.prod(shape) >= _TOO_LARGE else [_measure_shape(node, shape)]
    if node.op_type not in EVALUATED or any(name and name not in known for name in node.input):
        return None
    inputs = [name for name in node.input if name]
    values = [known[name] for name in inputs]
    try:
        small = not values or _predict_size(node.op_type, values) <= SMALL_RESULT
    except (ValueError, OverflowError, ZeroDivisionError):  # the inputs do not fit each other
        return None
    return _run_node(node, dict(zip(inputs, values, strict=True)), opset) if small else None


def divides_by_zero(node: NodeProto, known: Mapping[str, NDArray[np.generic]]) -> bool:
    """Whether a node divides integers by zero, or the least of them by -1: processors take neither."""
    if not is_operator(node, "Div", "Mod"):
        return False
    above, below = (known.get(name) for name in node.input)
    if below is None or below.dtype.kind not in "iu":
        return False
    least = np.iinfo(below.dtype.name).min
    overflows = least < 0 and (below == -1).any() and (above is None or (above == least).any())
    return bool((below == 0).any() or overflows)


def _measure_shape(node: NodeProto, shape: tuple[int, ...]) -> NDArray[np.generic]:
    if node.op_type == "Size":
        return np.array(math.prod(shape), dtype=np.int64)
    chosen = slice(read_integer(node, "start", 0), read_integer(node, "end", len(shape)))
    return np.array(shape[chosen], dtype=np.int64)


def _predict_size(op_type: str, values: Sequence[NDArray[np.generic]]) -> int:
    """Elements of the result, or more: known before a byte of it is made."""
    if op_type in _BROADCASTING:
        return math.prod(np.broadcast_shapes(*(value.shape for value in values)))
    if op_type == "ConstantOfShape":
        return math.prod(int(side) for side in values[0].ravel())
    if op_type == "Expand":
        return math.prod(np.broadcast_shapes(values[0].shape, tuple(int(side) for side in values[1].ravel())))
    if op_type == "Range":
        start, end, step = (float(value.item()) for value in values)
        return max(0, math.ceil((end - start) / step))
    if op_type == "Gather":
        return int(values[0].size * values[1].size)
    return int(sum(value.size for value in values))


def _run_node(node: NodeProto, feed: dict[str, NDArray[np.generic]], opset: int) -> list[NDArray[np.generic]] | None:
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in feed.items()
        ],
        [helper.make_empty_tensor_value_info(name) for name in node.output],
    )
    one = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        with np.errstate(all="ignore"):
            results = [np.asarray(value) for value in ReferenceEvaluator(one).run(None, feed)]
    except Exception:  # noqa: BLE001 - whatever it makes of a node that does not fit its inputs
        return None  # what depends on it stays unknown
    return results if all(value.size <= SMALL_RESULT and value.dtype != object for value in results) else None
