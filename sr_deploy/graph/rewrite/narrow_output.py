"""A convolution with few output channels computes 2x2 pixels at once, as channels, and a pixel shuffle spreads them.

Output pixel (2i + a, 2j + b) reads rows 2i + a - p ... 2i + a - p + k - 1. All four pixels of a cell read within a
window of k + 1 rows that begins at 2i - p. So a convolution of kernel k + 1, stride 2 and the same padding, whose
channel (c, a, b) has the old kernel of c shifted by (a, b) and zeros around it, gives the cell; rows that were padding
are still.

Exact: zeros are added to the sums. Multiply-adds grow by ((k + 1) / k)^2, 1.78 for k = 3, but kernels compute 8 or 16
channels at a time, and 12 of 16 are used where 3 were. The sides must be even for every picture, which holds after an
enlargement by an even factor. A convolution of an enlargement itself is left to `sub_pixel`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sr_deploy.graph.rewrite.edit import EditableGraph
from sr_deploy.graph.rewrite.patterns import Conv, make_node, read_conv, write_conv
from sr_deploy.graph.rewrite.spatial_dims import has_spatial_multiple

_FEW_CHANNELS = 4


def pack_narrow_outputs(graph: EditableGraph) -> int:
    """Rewrite each plain convolution to at most 4 channels that keeps sides which are even for every picture."""
    count = 0
    for node in graph.of_type("Conv"):
        conv = read_conv(graph, node)
        if conv is None or not conv.is_plain or not conv.keeps_sides or len(conv.weight) > _FEW_CHANNELS:
            continue
        if graph.producer(node.input[0], "Resize") is not None:
            continue  # better as sub-pixels
        if max(conv.weight.shape[2:]) == 1 or not has_spatial_multiple(graph, node.input[0], 2):
            continue
        cells = graph.new_name(f"{node.output[0]}/cells")
        packed = write_conv(graph, pack_cells(conv), node.input[0], cells)
        shuffle = make_node(graph, "DepthToSpace", [cells], node.output[0], blocksize=2, mode="CRD")
        graph.replace([node], [packed, shuffle])
        count += 1
    return count


def pack_cells(conv: Conv) -> Conv:
    """The convolution that gives 2x2 cells of the result, in the order that a CRD shuffle takes."""
    out_channels, in_channels, tall, wide = conv.weight.shape
    weight = np.zeros((out_channels, 2, 2, in_channels, tall + 1, wide + 1), dtype=np.float32)
    for a, b in np.ndindex(2, 2):
        weight[:, a, b, :, a : a + tall, b : b + wide] = conv.weight
    bias = None if conv.bias is None else np.repeat(conv.bias, 4)
    return replace(conv, weight=weight.reshape(-1, in_channels, tall + 1, wide + 1), bias=bias, strides=(2, 2))
