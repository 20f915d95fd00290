"""A pixel-unshuffle before a convolution becomes part of it: a kernel of k r and a stride of r.

The unshuffle by r puts pixel (i, j) of each r x r cell of channel c into a channel k(c, i, j) of its own. So the
convolution's weight W[o, k(c, i, j), u, v] meets input pixel (r (y + u) + i, r (x + v) + j) of channel c, which is tap
(r u + i, r v + j) of a convolution with stride r; p cells of padding are r p pixels of padding. Exact: no number
changes.

It is found as SpaceToDepth, and as a Transpose between views (Reshape, Squeeze, Unsqueeze), as exporters write it.
Shapes may be computed: they are inferred for two pictures of different sides, and must be those of an unshuffle for
both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from sr_deploy.errors import GraphError
from sr_deploy.graph.load import find_input_output, read_integer, read_integers
from sr_deploy.graph.rewrite.edit import EditableGraph
from sr_deploy.graph.rewrite.patterns import Conv, read_conv, write_conv
from sr_deploy.graph.shapes import InferredShapes, infer_shapes

_UNSHUFFLE_PERM = (0, 1, 3, 5, 2, 4)
# What gives a tensor another shape and leaves the order of its numbers. Exporters chain several: PyTorch's older one
# unsqueezes and cuts one side at a time, today's flattens the batch and unflattens it.
_VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
# Sides with many divisors, in unlike pairs.
_PROBE_SIDES = ((48, 96), (144, 48))


@dataclass(frozen=True)
class Unshuffle:
    """A pixel-unshuffle."""

    source: str
    """Tensor that it takes."""
    block: int
    """Side of a block of pixels: the downscaling factor."""
    channels_last: bool
    """Order of the channels that it makes: (i, j, c) rather than (c, i, j)."""


def fold_unshuffles(graph: EditableGraph) -> int:
    """Rewrite each convolution in one group, without dilation, of a pixel-unshuffle."""
    count = 0
    shapes: list[InferredShapes] | None = None
    for node in graph.of_type("Conv"):
        conv = read_conv(graph, node)
        if conv is None or conv.group != 1 or conv.dilations != (1, 1):
            continue
        found = _read_space_to_depth(graph, node.input[0])
        if found is None and graph.producer(node.input[0], *_VIEWS) is not None:
            if shapes is None:
                shapes = _probe_shapes(graph.model)
            found = _read_reshapes(graph, node.input[0], shapes)
        if found is not None and conv.weight.shape[1] % found.block**2 == 0:
            graph.replace([node], [write_conv(graph, merge_unshuffle(conv, found), found.source, node.output[0])])
            count += 1
    return count


def merge_unshuffle(conv: Conv, unshuffle: Unshuffle) -> Conv:
    """The convolution of the image that equals `conv` of the unshuffled one."""
    r = unshuffle.block
    out_channels, in_channels, tall, wide = conv.weight.shape
    weight: NDArray[np.float32]
    if unshuffle.channels_last:
        weight = conv.weight.reshape(out_channels, r, r, -1, tall, wide).transpose(0, 3, 4, 1, 5, 2)
    else:
        weight = conv.weight.reshape(out_channels, -1, r, r, tall, wide).transpose(0, 1, 4, 2, 5, 3)
    top, left, bottom, right = (pad * r for pad in conv.pads)
    return replace(
        conv,
        weight=weight.reshape(out_channels, in_channels // r**2, tall * r, wide * r),
        strides=(conv.strides[0] * r, conv.strides[1] * r),
        pads=(top, left, bottom, right),
    )


def _read_space_to_depth(graph: EditableGraph, name: str) -> Unshuffle | None:
    node = graph.producer(name, "SpaceToDepth")
    return None if node is None else Unshuffle(node.input[0], read_integer(node, "blocksize", 1), True)


def _read_reshapes(graph: EditableGraph, name: str, shapes: list[InferredShapes]) -> Unshuffle | None:
    """The unshuffle whose result is `name`: views, one Transpose, views. Views move nothing: their ends say it all."""
    turned = graph.producer(_walk_views(graph, name)[-1], "Transpose")
    if turned is None or not shapes or read_integers(turned, "perm", ()) != _UNSHUFFLE_PERM:
        return None
    for source in reversed(_walk_views(graph, turned.input[0])):  # the farthest leaves no view behind
        blocks = {_find_block(one, source, turned.input[0], name) for one in shapes}
        block = blocks.pop() if len(blocks) == 1 else None
        if block is not None:
            return Unshuffle(source, block, False)
    return None


def _walk_views(graph: EditableGraph, name: str) -> list[str]:
    """`name`, and the tensors that it is another view of, back to what computes them."""
    names = [name]
    while (node := graph.producer(names[-1], *_VIEWS)) is not None:
        names.append(node.input[0])
    return names


def _find_block(shapes: InferredShapes, source: str, cells: str, result: str) -> int | None:
    before, between, after = shapes.shape(source), shapes.shape(cells), shapes.shape(result)
    if before is None or between is None or after is None or len(before) != 4 or len(between) != 6:
        return None
    n, c, h, w = before
    r = between[3]
    if r < 2 or h % r or w % r:
        return None
    return r if between == (n, c, h // r, r, w // r, r) and after == (n, c * r * r, h // r, w // r) else None


def _probe_shapes(model: onnx.ModelProto) -> list[InferredShapes]:
    """Shapes of all tensors for pictures of two sizes, or for the one that the graph takes; empty where unknown."""
    try:
        source, _ = find_input_output("the graph", model)
    except GraphError:
        return []
    dims = [dim.dim_value for dim in source.type.tensor_type.shape.dim]
    if len(dims) != 4 or not dims[1]:
        return []
    shapes = [(dims[0] or 2, dims[1], dims[2] or tall, dims[3] or wide) for tall, wide in _PROBE_SIDES]
    return [infer_shapes(model, source.name, shape) for shape in shapes]
