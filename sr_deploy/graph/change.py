"""What changes of graphs have in common: nodes in another order, tensors under other names, names that are free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto


def set_nodes(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    """Let a graph consist of these nodes, in this order; some may be its own."""
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


def rename_tensors(nodes: Iterable[NodeProto], names: Mapping[str, str]) -> None:
    """Let nodes take and give the tensors of other names, new ones by old ones, in place."""
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def sort_constants(graph: GraphProto) -> None:
    """Put the constants in the order of their names, without those that no node reads."""
    used = {name for node in graph.node for name in node.input}
    kept = sorted((tensor for tensor in graph.initializer if tensor.name in used), key=lambda tensor: tensor.name)
    del graph.initializer[:]
    graph.initializer.extend(kept)


def take_name(name: str, taken: set[str]) -> str:
    """A name that begins so and is not taken yet; it is then."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name
