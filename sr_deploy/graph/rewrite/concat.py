"""A convolution of a concatenation becomes a sum of convolutions of its parts.

    W concat(x_0, ..., x_n) + b = (W_0 x_0 + b) + W_1 x_1 + ... + W_n x_n

with W_k the columns of W that meet x_k. No copy is made of what is concatenated; each sum is fused into the convolution
beside it where the backend does that. The products are the same, summed in another order.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from sr_deploy.graph.check import is_operator
from sr_deploy.graph.load import read_integer
from sr_deploy.graph.rewrite.edit import EditableGraph
from sr_deploy.graph.rewrite.patterns import Conv, make_node, read_conv, write_conv
from sr_deploy.graph.rewrite.spatial_dims import count_channels


def split_concatenations(graph: EditableGraph, leading: int = 0) -> int:
    """Rewrite each convolution in one group of a concatenation along channels whose widths are known.

    Args:
        graph: changed in place.
        leading: so many parts at the beginning stay concatenated where there are more; convolutions of exactly so
            many are left alone.
    """
    widths_of = {
        node.output[0]: [count_channels(graph, one) for one in node.input]
        for node in graph.of_type("Concat")
        if read_integer(node, "axis", 0) == 1
    }
    count = 0
    for node in graph.of_type("Conv"):
        conv, widths = read_conv(graph, node), widths_of.get(node.input[0])
        if conv is None or conv.group != 1 or not widths or len(widths) < 2 or len(widths) == leading:
            continue
        known = [width for width in widths if width is not None]
        joined = graph.producer(node.input[0], "Concat")
        if joined is None or len(known) != len(widths) or sum(known) != conv.weight.shape[1]:
            continue
        sources = list(joined.input)
        if 1 < leading < len(sources):
            sources = [_join(graph, joined, tuple(sources[:leading])), *sources[leading:]]
            known = [sum(known[:leading]), *known[leading:]]
        _write_parts(graph, conv, sources, known)
        count += 1
    return count


def _join(graph: EditableGraph, like: onnx.NodeProto, sources: tuple[str, ...]) -> str:
    """The concatenation of `sources`, one that is there or a new one beside `like`."""
    for node in graph.users(sources[0]):
        if is_operator(node, "Concat") and tuple(node.input) == sources and read_integer(node, "axis", 0) == 1:
            return str(node.output[0])
    name = graph.new_name(f"{like.output[0]}/first")
    graph.replace([like], [make_node(graph, "Concat", sources, name, axis=1), like])
    return name


def _write_parts(graph: EditableGraph, conv: Conv, sources: list[str], widths: list[int]) -> None:
    result = conv.node.output[0]
    bounds = np.cumsum(widths)[:-1]
    new = []
    total = ""
    for place, (source, weight) in enumerate(zip(sources, np.split(conv.weight, bounds, axis=1), strict=True)):
        part = graph.new_name(f"{result}/part{place}")
        bias = conv.bias if place == 0 else None
        new.append(write_conv(graph, replace(conv, weight=weight, bias=bias), source, part))
        if place:
            last = place == len(sources) - 1
            summed = result if last else graph.new_name(f"{result}/sum{place}")
            new.append(make_node(graph, "Add", [total, part], summed))
            part = summed
        total = part
    graph.replace([conv.node], new)
