"""The order of a graph's nodes: each after those that make what it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import FunctionProto, GraphProto, NodeProto


def inner_graphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs in a node's attributes: branches of an `If`, bodies of loops."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def walk_nodes(graph: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    """All nodes, those of branches and bodies before the node that has them."""
    for node in graph.node:
        for inner in inner_graphs(node):
            yield from walk_nodes(inner)
        yield node


def names_read_inside(node: NodeProto) -> set[str]:
    """Names of tensors outside that the graphs in a node read."""
    found: set[str] = set()
    for graph in inner_graphs(node):
        made = {value.name for value in (*graph.input, *graph.initializer)}
        read = {value.name for value in graph.output}
        for inner in graph.node:
            made.update(inner.output)
            read.update(inner.input)
            read |= names_read_inside(inner)
        found |= read - made
    found.discard("")
    return found


def sort_nodes(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """The order that they have, but each node after those that make what it takes.

    Raises:
        ValueError: some go round in a circle.
    """
    producers = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    needs = [
        sorted({producers[name] for name in (*node.input, *names_read_inside(node)) if name in producers}, reverse=True)
        for node in nodes
    ]
    begun: set[int] = set()
    done: set[int] = set()
    ordered: list[NodeProto] = []
    for start in range(len(nodes)):
        waiting = [start]
        while waiting:
            place = waiting[-1]
            if place in done:
                waiting.pop()
            elif place in begun:  # all that it needs came before
                done.add(place)
                ordered.append(nodes[place])
                waiting.pop()
            else:
                begun.add(place)
                left = [one for one in needs[place] if one not in done]
                if any(one in begun for one in left):
                    raise ValueError("its nodes go round in a circle")
                waiting += left
    return ordered
