"""Feature maps get channels of zeros, until there are as many as kernels compute at a time.

A convolution's extra output channels have weights and bias of zero, so they are zero, and stay zero in every activation
with f(0) = 0; the next convolution meets them with weights of zero. Exact: zeros are added to the sums.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from sr_deploy.graph.rewrite.edit import EditableGraph
from sr_deploy.graph.rewrite.patterns import Conv, read_conv, repeat_node, write_conv

# They leave zero as it is.
_KEEP_ZERO = ("LeakyRelu", "Relu", "PRelu", "Tanh", "Elu", "HardSwish", "Abs", "Neg")


def pad_channels(graph: EditableGraph, multiple: int) -> int:
    """Pad what lies between two convolutions in one group, with one activation between them or none."""
    count = 0
    for node in graph.of_type("Conv"):
        conv = read_conv(graph, node)
        if conv is None or conv.group != 1 or len(conv.weight) % multiple == 0:
            continue
        activation = graph.only_user(node.output[0], *_KEEP_ZERO)
        between = node.output[0] if activation is None else activation.output[0]
        following = read_conv(graph, graph.only_user(between, "Conv"))
        if following is None or following.group != 1 or following.node.input[0] != between:
            continue
        if _write_padded(graph, conv, activation, following, -len(conv.weight) % multiple):
            count += 1
    return count


def _write_padded(
    graph: EditableGraph, conv: Conv, activation: onnx.NodeProto | None, following: Conv, extra: int
) -> bool:
    inputs = list(activation.input[1:]) if activation is not None else []
    if activation is not None and activation.op_type == "PRelu":
        slope = graph.weights(inputs[0])
        channels = len(conv.weight)
        if slope is None or (slope.size != 1 and (slope.ndim not in (3, 4) or slope.shape[-3:] != (channels, 1, 1))):
            return False
        if slope.size != 1:
            padded = np.concatenate([slope.reshape(channels, 1, 1), np.zeros((extra, 1, 1), np.float32)])
            inputs = [graph.add_constant(padded, inputs[0])]
    wide = replace(
        conv,
        weight=np.pad(conv.weight, ((0, extra), (0, 0), (0, 0), (0, 0))),
        bias=None if conv.bias is None else np.pad(conv.bias, (0, extra)),
    )
    reading = replace(following, weight=np.pad(following.weight, ((0, 0), (0, extra), (0, 0), (0, 0))))
    features = graph.new_name(f"{conv.node.output[0]}/padded")
    new = [write_conv(graph, wide, conv.node.input[0], features)]
    old = [conv.node, following.node]
    if activation is not None:
        old.append(activation)
        activated = graph.new_name(f"{activation.output[0]}/padded")
        new.append(repeat_node(graph, activation, [features, *inputs], activated))
        features = activated
    new.append(write_conv(graph, reading, features, following.node.output[0]))
    graph.replace(old, new)
    return True
