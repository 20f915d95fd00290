"""Feature maps that are joined or enlarged on their way to a convolution, and so are quantized with one step.

A concatenation of integers, and one enlarged by repeating its pixels, is the concatenation or enlargement
quantized, number by number, if all parts have the same step. So the quantizers stand at the parts: each part is
quantized once for all readers, and one byte per sample is moved. The parts of a dense block (Huang et al. 2017) are
read by several concatenations, which ties all of them to one step. FP8 numbers are not joined (`insert`); their feature
maps share steps all the same, which changes next to nothing, since the distances between them grow with the numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from sr_deploy.graph.load import read_integer, read_text

if TYPE_CHECKING:
    import onnx


def list_joined(node: onnx.NodeProto | None) -> tuple[str, ...]:
    """What a node only hands on: the parts of a concatenation of channels, or what a Resize repeats; else nothing."""
    if node is None:
        return ()
    if node.op_type == "Concat" and read_integer(node, "axis", 1) == 1:
        return tuple(node.input)
    return (node.input[0],) if _repeats(node) else ()


def _repeats(node: onnx.NodeProto) -> bool:
    """Whether a node enlarges by giving each pixel several times."""
    place = read_text(node, "coordinate_transformation_mode", "half_pixel")
    nearest = read_text(node, "mode", "nearest"), read_text(node, "nearest_mode", "round_prefer_floor")
    return node.op_type == "Resize" and place == "asymmetric" and nearest == ("nearest", "floor")


def find_parts(producers: Mapping[str, onnx.NodeProto], tensor: str) -> tuple[str, ...]:
    """The feature maps that have to be quantized for a convolution to read `tensor` in INT8.

    Args:
        producers: nodes of the graph, by the tensors that they give.
        tensor: what the convolution reads.
    """
    joined = list_joined(producers.get(tensor))
    if not joined:
        return (tensor,)
    return tuple(dict.fromkeys(part for one in joined for part in find_parts(producers, one)))


def group_by_step(model: onnx.ModelProto, tensors: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """For each tensor that convolutions read, all feature maps that share its step, in the graph's order."""
    producers = {name: node for node in model.graph.node for name in node.output}
    group_of: dict[str, list[str]] = {}
    parts = {tensor: find_parts(producers, tensor) for tensor in dict.fromkeys(tensors)}
    for of_one in parts.values():
        groups = {id(group_of[part]): group_of[part] for part in of_one if part in group_of}
        merged = list(dict.fromkeys([*(part for group in groups.values() for part in group), *of_one]))
        group_of.update(dict.fromkeys(merged, merged))
    order = {name: place for place, name in enumerate(producers)}
    return {
        tensor: tuple(sorted(group_of[of_one[0]], key=lambda one: order.get(one, -1)))
        for tensor, of_one in parts.items()
    }
