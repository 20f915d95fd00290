"""What follows of a tensor's channels and sides from the nodes that lead to it, for pictures of any size."""

from __future__ import annotations

import onnx

from sr_deploy.graph.load import read_integer
from sr_deploy.graph.rewrite.edit import EditableGraph
from sr_deploy.graph.rewrite.patterns import UNARY, read_conv, read_enlargement, read_shuffle

_BROADCAST = ("Add", "Sub", "Mul", "Div")
_SAME_SHAPE = (*UNARY, "PRelu", "Clip", "Identity", "BatchNormalization")


def count_channels(graph: EditableGraph, name: str) -> int | None:
    """Channels of an N x C x H x W tensor; None where they are not declared and do not follow."""
    declared = _declared_channels(graph, name)
    if declared is not None:
        return declared
    node = graph.producer(name, "Conv", "Concat", "DepthToSpace", "Resize", "Upsample", *_BROADCAST, *_SAME_SHAPE)
    if node is None:
        return None
    if node.op_type in _BROADCAST:
        return _count_broadcast(graph, node)
    if node.op_type == "Conv":
        conv = read_conv(graph, node)
        return None if conv is None else len(conv.weight)
    if node.op_type == "Concat":
        parts = [count_channels(graph, one) for one in node.input]
        known = [one for one in parts if one is not None]
        return sum(known) if len(known) == len(parts) and read_integer(node, "axis", 0) == 1 else None
    before = count_channels(graph, node.input[0])
    shuffle = read_shuffle(node)
    if before is None or (node.op_type in ("Resize", "Upsample") and read_enlargement(graph, node) is None):
        return None
    return before if shuffle is None else before // shuffle.block**2


def _count_broadcast(graph: EditableGraph, node: onnx.NodeProto) -> int | None:
    """Of a sum or product: those of the images in it, or as many as one of them where the others have one."""
    found = [1]
    for name in node.input:
        value = graph.constant(name)
        if value is None:
            counted = count_channels(graph, name)
        elif value.ndim in (3, 4):
            counted = value.shape[-3]
        else:
            counted = 1 if value.ndim < 3 else None
        if counted is None:
            return None
        found.append(counted)
    return max(found)


def _declared_channels(graph: EditableGraph, name: str) -> int | None:
    for value in graph.model.graph.input:
        if value.name == name:
            sides = value.type.tensor_type.shape.dim
            return int(sides[1].dim_value) if len(sides) == 4 and sides[1].dim_value > 0 else None
    return None


def has_sides_of_multiple(graph: EditableGraph, name: str, multiple: int) -> bool:
    """Whether height and width are multiples of `multiple` for a picture of any size."""
    if multiple == 1:
        return True
    node = graph.producer(name, "Conv", "DepthToSpace", "Resize", "Upsample", *_BROADCAST, *_SAME_SHAPE)
    if node is None:
        return False
    if node.op_type in _BROADCAST:
        # A side of at least two pixels does not change when another tensor is stretched to it.
        return any(has_sides_of_multiple(graph, one, multiple) for one in node.input)
    if node.op_type == "Conv":
        conv = read_conv(graph, node)
        return conv is not None and conv.keeps_sides and has_sides_of_multiple(graph, node.input[0], multiple)
    shuffle = read_shuffle(node)
    factor = shuffle.block if shuffle is not None else read_enlargement(graph, node)
    if factor is None:
        return node.op_type not in ("Resize", "Upsample") and has_sides_of_multiple(graph, node.input[0], multiple)
    if multiple % factor == 0:
        return has_sides_of_multiple(graph, node.input[0], multiple // factor)
    return factor % multiple == 0
