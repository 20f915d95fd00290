"""A parametric ReLU in operators that stay in ONNX Runtime's blocked layout: a depthwise 1x1 convolution, Relu, a sum.

    PReLU(x) = x where x > 0, s x elsewhere  =  x + relu((s - 1) x)  where s <= 1  =  x - relu((1 - s) x)  where s >= 1

(for x < 0 and s <= 1: x + (s - 1) x = s x). Where the slopes of a layer lie on both sides of 1, a second depthwise
convolution with weights of one and minus one gives the sign. Rounding: (2 |1 - s| + |s|) 2^-24 |x| at most. Slopes that
are all the same are those of a LeakyRelu: exact.

ONNX Runtime has no PRelu for its blocked layout and leaves the layout around each one. OpenVINO and TensorRT fuse PRelu
as it is, so this is an option.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from sr_deploy.graph.rewrite.edit import EditableGraph
from sr_deploy.graph.rewrite.patterns import make_node, round_weights
from sr_deploy.graph.rewrite.spatial_dims import count_channels


def decompose_prelu(graph: EditableGraph) -> int:
    """Rewrite each PRelu with constant finite slopes, one or one for each channel."""
    count = 0
    for node in graph.of_type("PRelu"):
        slope = graph.weights(node.input[1])
        if slope is None or not slope.size or not np.isfinite(slope).all():
            continue
        if (slope == slope.flat[0]).all() and slope.ndim <= 1:
            graph.replace([node], [_make_leaky(graph, node, float(slope.flat[0]))])
            count += 1
            continue
        channels = count_channels(graph, node.input[0])
        if channels is not None and slope.shape in ((channels, 1, 1), (1, channels, 1, 1)):
            graph.replace([node], _make_sum(graph, node, slope.reshape(channels).astype(np.float64)))
            count += 1
    return count


def _make_leaky(graph: EditableGraph, node: onnx.NodeProto, slope: float) -> onnx.NodeProto:
    leaky = make_node(graph, "LeakyRelu", node.input[:1], node.output[0])
    leaky.attribute.append(onnx.helper.make_attribute("alpha", slope))
    return leaky


def _make_sum(graph: EditableGraph, node: onnx.NodeProto, slope: NDArray[np.float64]) -> list[onnx.NodeProto]:
    x, y = node.input[0], node.output[0]
    scaled, positive = graph.new_name(f"{y}/scaled"), graph.new_name(f"{y}/positive")
    new = [
        _make_depthwise(graph, x, -np.abs(1 - slope), scaled),
        make_node(graph, "Relu", [scaled], positive),
    ]
    if (slope <= 1).all() or (slope >= 1).all():
        new.append(make_node(graph, "Add" if (slope <= 1).all() else "Sub", [x, positive], y))
    else:
        signed = graph.new_name(f"{y}/signed")
        new.append(_make_depthwise(graph, positive, np.where(slope <= 1, 1.0, -1.0), signed))
        new.append(make_node(graph, "Add", [x, signed], y))
    return new


def _make_depthwise(graph: EditableGraph, source: str, factors: NDArray[np.float64], result: str) -> onnx.NodeProto:
    weight = graph.add_constant(round_weights(factors.reshape(-1, 1, 1, 1)), f"{result}.weight")
    return make_node(graph, "Conv", [source, weight], result, kernel_shape=(1, 1), group=len(factors))
