"""A factor after a convolution becomes part of its weight and bias.

    s * (W x + b) = (s W) x + (s b)

for one factor, or one for each output channel. Exact but for the rounding of s W and s b: half a unit in the last
place of each. The residual scales of ESRGAN's dense blocks (0.2) are of this kind. The outer ones are not: they scale a
sum of which only one part is a convolution, and scaling the other part costs what the factor did.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray

from sr_deploy.graph.rewrite.edit import EditableGraph
from sr_deploy.graph.rewrite.patterns import Conv, read_conv, read_scale, round_weights, write_conv


def fold_scales(graph: EditableGraph) -> int:
    """Rewrite each Mul or Div by a constant whose other input is a convolution that no other node reads."""
    count = 0
    for node in graph.of_type("Mul", "Div"):
        for place in (0, 1) if node.op_type == "Mul" else (0,):
            found = _find_factor(graph, node, place)
            if found is not None:
                conv, factor = found
                scaled = write_conv(graph, scale_conv(conv, factor), conv.node.input[0], node.output[0])
                graph.replace([conv.node, node], [scaled])
                count += 1
                break
    return count


def scale_conv(conv: Conv, factor: NDArray[np.float64]) -> Conv:
    """The convolution whose output channel c is `factor[c]` times that of `conv`."""
    bias = None if conv.bias is None else round_weights(conv.bias * factor)
    return replace(conv, weight=round_weights(conv.weight * factor[:, None, None, None]), bias=bias)


def _find_factor(graph: EditableGraph, node: onnx.NodeProto, place: int) -> tuple[Conv, NDArray[np.float64]] | None:
    source = node.input[place]
    conv = read_conv(graph, graph.producer(source, "Conv"))
    if conv is None or not graph.is_private(source):
        return None
    factor = read_scale(graph.constant(node.input[1 - place]), len(conv.weight))
    if factor is None or not np.isfinite(factor).all() or (node.op_type == "Div" and not factor.all()):
        return None
    return conv, factor if node.op_type == "Mul" else 1 / factor
