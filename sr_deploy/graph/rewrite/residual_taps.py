"""A residual becomes a tap of the convolution that it is added to, where that convolution reads it anyway.

    W concat(x, ...) + b + s x = W' concat(x, ...) + b       W'[c, c] = W[c, c] + s at the middle tap, else W' = W

with s = 1, for a convolution that keeps the sides and has as many output channels as x. In an ESRGAN's dense block x is
the first part of the concatenation, and with the sum gone the outer residual scale follows a convolution and is folded
too. Rounding: half a unit in the last place of W + 1, so 2^-24 |W + 1| |x| at each of these taps.

An option, and not for graphs that are quantized or converted to FP16: W is small beside 1, and what is left of it in
W + 1 is little in 16 bits and nothing in 8.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from sr_deploy.graph.load import read_integer
from sr_deploy.graph.rewrite.edit import EditableGraph
from sr_deploy.graph.rewrite.patterns import Conv, read_conv, round_weights, write_conv
from sr_deploy.graph.rewrite.spatial_dims import count_channels


def fold_residuals(graph: EditableGraph) -> int:
    """Rewrite each sum of a convolution that no other node reads and a tensor that this convolution reads."""
    count = 0
    for node in graph.of_type("Add"):
        for place in (0, 1):
            folded = _fold_sum(graph, node, place)
            if folded is not None:
                conv, new = folded
                graph.replace([conv.node, node], [new])
                count += 1
                break
    return count


def _fold_sum(graph: EditableGraph, node: onnx.NodeProto, place: int) -> tuple[Conv, onnx.NodeProto] | None:
    source, residual = node.input[place], node.input[1 - place]
    conv = read_conv(graph, graph.producer(source, "Conv"))
    if conv is None or not graph.is_private(source) or not _keeps_center(conv):
        return None
    start = _find_start(graph, conv.node.input[0], residual)
    out_channels, in_channels, tall, wide = conv.weight.shape
    width = count_channels(graph, residual)
    if start is None or width is None or width != out_channels or start + width > in_channels:
        return None
    weight = conv.weight.astype(np.float64)
    channels = np.arange(width)
    weight[channels, start + channels, tall // 2, wide // 2] += 1
    new = write_conv(graph, replace(conv, weight=round_weights(weight)), conv.node.input[0], node.output[0])
    return conv, new


def _keeps_center(conv: Conv) -> bool:
    top, left, bottom, right = conv.pads
    return conv.is_plain and conv.keeps_sides and top == bottom and left == right


def _find_start(graph: EditableGraph, source: str, residual: str) -> int | None:
    """The channel of the convolution's input at which the residual's channels begin."""
    if source == residual:
        return 0
    joined = graph.producer(source, "Concat")
    if joined is None or read_integer(joined, "axis", 0) != 1 or residual not in joined.input:
        return None
    before = [count_channels(graph, name) for name in joined.input[: list(joined.input).index(residual)]]
    known = [width for width in before if width is not None]
    return sum(known) if len(known) == len(before) else None
