"""A graph in FP16 or BF16 as one in FP32 that rounds each result: what 16 bits cost, on any processor.

ONNX Runtime on a CPU computes 16-bit convolutions in FP32 and leaves out roundings between them as it likes, or has no
such convolution at all. It keeps Casts that are in the graph. Sums inside a layer are FP32's, as tensor cores add.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from sr_deploy.errors import GraphError
from sr_deploy.graph.change import set_nodes
from sr_deploy.graph.load import infer_types
from sr_deploy.graph.widen import FLOAT16_TYPES, widen_attributes, widen_tensor

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

ROUNDED = "round-results"
"""What certificates call it, among rewrites."""

_FLOAT = 1
# They hand on numbers that are rounded already, or integers that a convolution takes as they are.
_MOVES = frozenset(
    {
        "Concat",
        "DepthToSpace",
        "DequantizeLinear",
        "Flatten",
        "Gather",
        "Identity",
        "MaxPool",
        "Pad",
        "Relu",
        "Reshape",
        "Slice",
        "Split",
    }
    | {"SpaceToDepth", "Squeeze", "Transpose", "Unsqueeze"}
)


def insert_rounding(model: ModelProto) -> None:
    """Let a graph be computed in FP32 with every 16-bit result rounded by casts, in place; its I/O type stays.

    Args:
        model: FP16 or BF16 throughout or in parts, with its weights; integers may be among it.

    Raises:
        GraphError: the type of a tensor cannot be inferred.
    """
    graph = model.graph
    types = infer_types(model)
    io_names = {value.name for value in (*graph.input, *graph.output)}
    for tensor in graph.initializer:
        widen_tensor(tensor)
    nodes: list[NodeProto] = []
    renamed: dict[str, str] = {}
    for name in [value.name for value in graph.input]:
        if types.get(name) in FLOAT16_TYPES:
            renamed[name] = f"{name}.wide"
            nodes.append(_cast(name, renamed[name], _FLOAT))
    for node in graph.node:
        copied = copy.deepcopy(node)
        copied.input[:] = [renamed.get(name, name) for name in copied.input]
        widen_attributes(copied)
        nodes.append(copied)
        for position, name in enumerate(node.output):
            if name and name not in types:
                raise GraphError(f"the type of tensor {name!r} cannot be inferred, so it cannot be rounded")
            if not name or types[name] not in FLOAT16_TYPES:
                continue
            if node.op_type in _MOVES and name not in io_names:
                continue
            exact, narrow = f"{name}.exact", name if name in io_names else f"{name}.narrow"
            copied.output[position] = exact
            wide = renamed[name] = f"{name}.wide" if name in io_names else name
            nodes += [_cast(exact, narrow, types[name]), _cast(narrow, wide, _FLOAT)]
    set_nodes(graph, nodes)
    del graph.value_info[:]


def _cast(source: str, target: str, kind: int) -> NodeProto:
    from onnx import helper

    return helper.make_node("Cast", [source], [target], name=f"round.{target}", to=kind)
