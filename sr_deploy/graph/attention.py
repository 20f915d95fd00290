"""ONNX's Attention (opset 23 on) written out as products of matrices, by the definition that ONNX itself gives of it.

Costs, precisions, reach and rewrites are then those of MatMul and Softmax, and TensorRT-RTX 1.7, which builds no engine
of an Attention without a kernel of its own for it, takes the graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sr_deploy.graph.check import is_operator
from sr_deploy.graph.order import walk_nodes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_CACHES = {4: "past_key", 5: "past_value", 6: "nonpad_kv_seqlen"}
"""Inputs that are not taken, by place: they are of generators of text."""
_RESULTS = ("present_key", "present_value", "qk_matmul_output")
_BODY_NODES = 100
"""Nodes that one Attention becomes at most: 68 to 90 with onnx 1.23."""


def write_out_attention(model: ModelProto, max_nodes: int) -> None:
    """Put the nodes of ONNX's definition in the place of each Attention of the graph, in place.

    Args:
        model: checked (`check`), with its weights or without.
        max_nodes: that the graph may have then.

    Raises:
        ValueError: an Attention in a branch, with an input or output that no network for images needs, or of tensors
            whose types cannot be inferred; or too many; one line.
    """
    nodes = [node for node in walk_nodes(model.graph) if is_operator(node, "Attention")]
    if not nodes:
        return
    from onnx import inliner

    for node in nodes:
        _check(node)
    if len(nodes) > sum(is_operator(node, "Attention") for node in model.graph.node):
        raise ValueError("it has an Attention in a branch or body, where it is not written out; export it without")
    count = len(model.graph.node) + _BODY_NODES * len(nodes)
    if count > max_nodes:
        raise ValueError(f"it has up to {count} nodes, each Attention written out; {max_nodes} are allowed")
    typed = _with_types(model)
    try:
        written = inliner.inline_selected_functions(typed, [("", "Attention")], inline_schema_functions=True)
    except RuntimeError as error:  # with the name of a file of ONNX's own and a line
        reason = " ".join(str(error).split())[-100:]
        raise ValueError(f"its Attention cannot be written out as products of matrices ({reason})") from error
    del written.graph.value_info[:]
    written.graph.value_info.extend(model.graph.value_info)
    model.CopyFrom(written)


def _check(node: NodeProto) -> None:
    named = node.name or node.output[0]
    extra = [name for place, name in _CACHES.items() if place < len(node.input) and node.input[place]]
    extra += [name for name, made in zip(_RESULTS, node.output[1:], strict=False) if made]
    if extra:
        raise ValueError(
            f"its Attention {named!r} has {' and '.join(extra)}, as generators of text have; without them it is taken"
        )


def _with_types(model: ModelProto) -> ModelProto:
    """A copy that states the type of every tensor, constants too: which body fits depends on them."""
    import onnx

    typed: ModelProto = onnx.shape_inference.infer_shapes(model)
    stated = {value.name for value in (*typed.graph.value_info, *typed.graph.input, *typed.graph.output)}
    for tensor in typed.graph.initializer:
        if tensor.name not in stated:
            typed.graph.value_info.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tuple(tensor.dims))
            )
    return typed
