"""What follows of a tensor's channels and sides from the nodes that lead to it, for pictures of any size.

Answers are kept in the graph: residuals within residuals join again and again, and each join would double the work.
Nothing recurses either: networks may be deeper than Python's stack.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterator, Sequence
from typing import TypeVar

import onnx

from sr_deploy.graph.load import read_integer
from sr_deploy.graph.rewrite.edit import EditableGraph
from sr_deploy.graph.rewrite.patterns import UNARY, read_conv, read_enlargement, read_shuffle

_BROADCAST = ("Add", "Sub", "Mul", "Div")
_SAME_SHAPE = (*UNARY, "PRelu", "Clip", "Identity", "BatchNormalization")
_FOLLOWED = ("Conv", "DepthToSpace", "Resize", "Upsample", *_BROADCAST, *_SAME_SHAPE)

Question = TypeVar("Question", bound=Hashable)


def count_channels(graph: EditableGraph, name: str) -> int | None:
    """Channels of an N x C x H x W tensor; None where they are not declared and do not follow."""
    known = graph.channels
    for one in _in_order(name, known, lambda one: _channel_sources(graph, one)):
        known[one] = _count_from_sources(graph, one)
    return known[name]


def has_spatial_multiple(graph: EditableGraph, name: str, multiple: int) -> bool:
    """Whether height and width are multiples of `multiple` for a picture of any size."""
    known = graph.spatial_multiples
    for one in _in_order((name, multiple), known, lambda one: _side_sources(graph, *one) or ()):
        sources = _side_sources(graph, *one)
        # A side of at least two pixels does not change when another tensor is stretched to it.
        known[one] = sources is None or any(known.get(source, False) for source in sources)
    return known[name, multiple]


def _in_order(
    start: Question, known: Container[Question], sources_of: Callable[[Question], Sequence[Question]]
) -> Iterator[Question]:
    """`start` and all that it depends on and is not known, each after its sources; the caller makes it known."""
    waiting, entered = [start], set()
    while waiting:
        one = waiting[-1]
        needed = [source for source in sources_of(one) if source not in known and source not in entered]
        if one in known:
            waiting.pop()
        elif needed:
            entered.add(one)
            waiting += needed
        else:
            yield one
            waiting.pop()


def _channel_sources(graph: EditableGraph, name: str) -> list[str]:
    node = graph.producer(name, "Concat", *_FOLLOWED)
    if node is None or node.op_type == "Conv" or _declared_channels(graph, name) is not None:
        return []
    if node.op_type == "Concat":
        return list(node.input)
    if node.op_type in _BROADCAST:
        return [one for one in node.input if graph.constant(one) is None]
    return [node.input[0]]


def _count_from_sources(graph: EditableGraph, name: str) -> int | None:
    declared = _declared_channels(graph, name)
    if declared is not None:
        return declared
    node = graph.producer(name, "Concat", *_FOLLOWED)
    if node is None:
        return None
    if node.op_type in _BROADCAST:
        return _count_broadcast(graph, node)
    if node.op_type == "Conv":
        conv = read_conv(graph, node)
        return None if conv is None else len(conv.weight)
    if node.op_type == "Concat":
        parts = [graph.channels.get(one) for one in node.input]
        known = [one for one in parts if one is not None]
        return sum(known) if len(known) == len(parts) and read_integer(node, "axis", 0) == 1 else None
    before = graph.channels.get(node.input[0])
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
            counted = graph.channels.get(name)
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
            dims = value.type.tensor_type.shape.dim
            return int(dims[1].dim_value) if len(dims) == 4 and dims[1].dim_value > 0 else None
    return None


def _side_sources(graph: EditableGraph, name: str, multiple: int) -> list[tuple[str, int]] | None:
    """One of these has to hold, each a tensor and what its sides are multiples of; None: it holds anyway."""
    if multiple == 1:
        return None
    node = graph.producer(name, *_FOLLOWED)
    if node is None:
        return []
    if node.op_type in _BROADCAST:
        return [(one, multiple) for one in node.input]
    same = [(node.input[0], multiple)]
    if node.op_type == "Conv":
        conv = read_conv(graph, node)
        return same if conv is not None and conv.keeps_sides else []
    shuffle = read_shuffle(node)
    factor = shuffle.block if shuffle is not None else read_enlargement(graph, node)
    if factor is None:
        return [] if node.op_type in ("Resize", "Upsample") else same
    if multiple % factor == 0:
        return [(node.input[0], multiple // factor)]
    return None if factor % multiple == 0 else []
