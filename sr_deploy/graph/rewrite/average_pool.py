"""A network that is followed by the mean of 2x2 pixels gives that mean at once: an x4 network used at x2.

Let M be the mean over each 2x2 cell. It is linear, so it moves backwards through the tail:

    M (W * x + b) = V * x + b          V = W * (2x2 of 1/4), one larger, stride 2: the convolution's sums, summed
    M shuffle_r(x) = shuffle_(r/2)(A x)   A the mean of the four channels that fall into one cell, for even r
    M (x + y) = M x + M y

and A joins the convolution before it: A (W x + b) = (A W) x + (A b). Exact but for the rounding of the new weights and
the order of sums.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from sr_deploy.graph.load import find_input_output, read_integer, read_integers, read_text
from sr_deploy.graph.rewrite.edit import EditableGraph
from sr_deploy.graph.rewrite.patterns import (
    Conv,
    Shuffle,
    make_node,
    read_conv,
    read_shuffle,
    round_weights,
    write_conv,
)


def append_halving(model: onnx.ModelProto) -> None:
    """Let the graph's image output be the mean of 2x2 pixels of what it was, in place.

    `fold_average_pools` then makes it part of the tail. Declared sizes of the output are dropped: they were twice that.
    """
    _, output = find_input_output("the graph", model)
    graph = EditableGraph(model)
    whole = graph.new_name(f"{output.name}/whole")
    maker = graph.producer(output.name)
    if maker is None:
        return
    maker.output[:] = [whole if name == output.name else name for name in maker.output]
    others = [node for node in graph.nodes if output.name in node.input]
    pool = helper.make_node("AveragePool", [whole], [output.name], kernel_shape=(2, 2), strides=(2, 2))
    pool.name = graph.new_name("halve/AveragePool")
    graph.nodes.append(pool)
    graph.redirect(output.name, whole, others)
    for dim in output.type.tensor_type.shape.dim[2:]:
        dim.Clear()
    graph.commit()


def fold_average_pools(graph: EditableGraph) -> int:
    """Rewrite each mean of 2x2 cells of a convolution, or of a pixel shuffle by an even factor of convolutions."""
    count = 0
    for node in graph.of_type("AveragePool"):
        new = _fold(graph, node) if _halves(node) else None
        if new is not None:
            graph.replace([node], new)
            count += 1
    return count


def _halves(node: onnx.NodeProto) -> bool:
    plain = read_text(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID") and not any(read_integers(node, "pads", (0,)))
    return (
        plain
        and read_integers(node, "kernel_shape", ()) == (2, 2)
        and read_integers(node, "strides", (1, 1)) == (2, 2)
        and read_integers(node, "dilations", (1, 1)) == (1, 1)
        and not read_integer(node, "ceil_mode", 0)
    )


def _fold(graph: EditableGraph, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    source, result = node.input[0], node.output[0]
    conv = read_conv(graph, graph.producer(source, "Conv"))
    # Where a side is odd, pooling leaves the last row out, and so does a stride of 2.
    if conv is not None and conv.strides == (1, 1) and conv.dilations == (1, 1) and graph.is_private(source):
        return [write_conv(graph, average_pixels(conv), conv.node.input[0], result)]
    to_space = graph.producer(source, "DepthToSpace")
    shuffle = read_shuffle(to_space)
    if to_space is None or shuffle is None or shuffle.block % 2 or not graph.is_private(source):
        return None
    averaged = graph.new_name(f"{result}/means") if shuffle.block > 2 else result
    new = _average_before_shuffle(graph, to_space.input[0], shuffle, averaged)
    if new is not None and shuffle.block > 2:
        new.append(
            make_node(graph, "DepthToSpace", [averaged], result, blocksize=shuffle.block // 2, mode=shuffle.mode)
        )
    return new


def _average_before_shuffle(
    graph: EditableGraph, source: str, shuffle: Shuffle, result: str
) -> list[onnx.NodeProto] | None:
    """Nodes that give A x, for x a convolution or a sum of two."""
    if not graph.is_private(source):
        return None
    conv = read_conv(graph, graph.producer(source, "Conv"))
    if conv is not None and conv.group == 1:
        return [write_conv(graph, average_channels(conv, shuffle), conv.node.input[0], result)]
    total = graph.producer(source, "Add")
    if total is None:
        return None
    new: list[onnx.NodeProto] = []
    parts = [graph.new_name(f"{result}/{place}") for place in (0, 1)]
    for name, part in zip(total.input, parts, strict=True):
        summand = read_conv(graph, graph.producer(name, "Conv"))
        if summand is None or summand.group != 1 or not graph.is_private(name):
            return None
        if len(summand.weight) % shuffle.block**2:
            return None
        new.append(write_conv(graph, average_channels(summand, shuffle), summand.node.input[0], part))
    return [*new, make_node(graph, "Add", parts, result)]


def average_pixels(conv: Conv) -> Conv:
    """The convolution that gives the means of 2x2 cells of the result of `conv`."""
    exact = conv.weight.astype(np.float64)
    larger = sum(np.pad(exact, ((0, 0), (0, 0), (a, 1 - a), (b, 1 - b))) for a, b in np.ndindex(2, 2)) / 4
    return replace(conv, weight=round_weights(np.asarray(larger)), strides=(2, 2))


def average_channels(conv: Conv, shuffle: Shuffle) -> Conv:
    """The convolution whose shuffle by half the factor is the mean of 2x2 cells of the shuffle of `conv`."""
    bias = None if conv.bias is None else round_weights(_average(conv.bias.astype(np.float64), shuffle))
    return replace(conv, weight=round_weights(_average(conv.weight.astype(np.float64), shuffle)), bias=bias)


def _average(values: NDArray[np.float64], shuffle: Shuffle) -> NDArray[np.float64]:
    """Mean over the channels (first axis) that one 2x2 cell is made of."""
    half, rest = shuffle.block // 2, values.shape[1:]
    if shuffle.mode == "CRD":
        means = values.reshape(-1, half, 2, half, 2, *rest).mean(axis=(2, 4))
    else:
        means = values.reshape(half, 2, half, 2, -1, *rest).mean(axis=(1, 3))
    result: NDArray[np.float64] = means.reshape(-1, *rest)
    return result
