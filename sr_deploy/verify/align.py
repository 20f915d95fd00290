"""Which node of one graph is which of another that computes the same in another precision. No torch here.

Casts, quantisations and constants are looked through: what is left must be the same nodes in both, wired alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import AttributeProto, ModelProto, NodeProto

_LOOKED_THROUGH = ("Cast", "QuantizeLinear", "DequantizeLinear", "Identity")


@dataclass(frozen=True)
class Constant:
    """A constant as a node gets it."""

    name: str
    """Of the tensor in the file."""
    stored: NDArray[np.generic]
    """As it stands there."""
    values: NDArray[np.generic]
    """As it comes out of the DequantizeLinear behind it, in double precision; `stored` itself where there is none."""
    scale: NDArray[np.float64] | None = None
    """Step of the quantisation, so that it can be multiplied with `values`; None: not quantised."""


class GraphView:
    """A graph as its nodes that compute see it."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._producers = {name: node for node in model.graph.node for name in node.output if name}
        constants = {*self._tensors}
        self.input = next(value.name for value in model.graph.input if value.name not in constants)
        self.output = model.graph.output[0].name
        self.nodes = [node for node in model.graph.node if node.op_type not in (*_LOOKED_THROUGH, "Constant")]

    def source(self, name: str) -> str:
        """The tensor behind casts and quantisations."""
        node = self._producers.get(name)
        while node is not None and node.op_type in _LOOKED_THROUGH:
            name = node.input[0]
            node = self._producers.get(name)
        return name

    def constant(self, name: str) -> Constant | None:
        """What a constant holds, behind casts and quantisations; None for a tensor that is computed."""
        chain = []
        node = self._producers.get(name)
        while node is not None and node.op_type in _LOOKED_THROUGH:
            chain.append(node)
            name = node.input[0]
            node = self._producers.get(name)
        stored = self._read(name)
        if stored is None:
            return None
        quantiser = next((one for one in chain if one.op_type == "DequantizeLinear"), None)
        if quantiser is None:
            return Constant(name, stored, stored)
        scale = self._read_scale(quantiser, stored.ndim)
        zero = self._read(quantiser.input[2]) if len(quantiser.input) > 2 and quantiser.input[2] else None
        levels = stored.astype(np.float64) - (0 if zero is None else float(np.ravel(zero)[0]))
        return Constant(name, stored, levels * scale, scale)

    def is_constant(self, name: str) -> bool:
        """Whether `constant` would give something; without reading it."""
        source = self.source(name)
        node = self._producers.get(source)
        return source in self._tensors or (node is not None and node.op_type == "Constant")

    def input_step(self, name: str) -> float | None:
        """Step of the quantisation that a tensor has just come through; None: it was not quantised."""
        node = self._producers.get(name)
        while node is not None and node.op_type in ("Cast", "Identity"):
            node = self._producers.get(node.input[0])
        if node is None or node.op_type != "DequantizeLinear":
            return None
        return float(self._read_scale(node, 1).max())

    def _read_scale(self, node: NodeProto, axes: int) -> NDArray[np.float64]:
        read = self.constant(node.input[1])
        scale = np.ones(()) if read is None else np.asarray(read.values, np.float64)
        if scale.ndim == 0 or scale.size == 1:
            return scale.reshape(())
        axis = next((int(one.i) for one in node.attribute if one.name == "axis"), 1)
        shape = [1] * axes
        shape[axis] = scale.size
        return scale.reshape(shape)

    def _read(self, name: str) -> NDArray[np.generic] | None:
        from onnx import numpy_helper

        tensor = self._tensors.get(name)
        if tensor is not None:
            return np.asarray(numpy_helper.to_array(tensor))
        node = self._producers.get(name)
        if node is None or node.op_type != "Constant":
            return None
        for attribute in node.attribute:
            value = read_attribute(attribute)
            if attribute.name.startswith("value") and not isinstance(value, str):
                return np.asarray(value)
        return None


def read_attribute(attribute: AttributeProto) -> NDArray[np.generic] | str:
    """A number, a list or a tensor as an array; anything else as text."""
    import onnx

    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return np.asarray(onnx.numpy_helper.to_array(value))
    if isinstance(value, bytes):
        return value.decode()
    return np.asarray(value) if isinstance(value, int | float | list) else str(value)


@dataclass(frozen=True)
class Alignment:
    """Pairs of nodes, reference first."""

    pairs: tuple[tuple[NodeProto, NodeProto], ...]
    """In the order of the reference."""
    mismatch: str | None = None
    """Why the graphs are not the same network, where pairs end; None: they are."""


def align_graphs(reference: GraphView, candidate: GraphView) -> Alignment:
    """Pair nodes by their names where both have the same, else in their order."""
    others = _order_like(reference.nodes, candidate.nodes)
    pairs: list[tuple[NodeProto, NodeProto]] = []
    for number, (node, other) in enumerate(zip(reference.nodes, others, strict=False)):
        if node.op_type != other.op_type:
            return Alignment(
                tuple(pairs), f"node {number} is {describe_node(other)} where {describe_node(node)} is due"
            )
        pairs.append((node, other))
    if len(others) != len(reference.nodes):
        return Alignment(tuple(pairs), f"it has {len(others)} nodes that compute where {len(reference.nodes)} are due")
    return Alignment(tuple(pairs))


def describe_node(node: NodeProto) -> str:
    """As in `Conv 'node_conv2d_3'`."""
    return f"{node.op_type} {(node.name or node.output[0])!r}"


def list_wiring(reference: GraphView, candidate: GraphView, alignment: Alignment) -> Iterator[str]:
    """Inputs of nodes, and the graph's output, that come from elsewhere than in the reference, one line each."""
    same = {candidate.input: reference.input}
    for node, other in alignment.pairs:
        same.update(zip(other.output, node.output, strict=False))
    for node, other in alignment.pairs:
        for position, name in enumerate(node.input):
            taken = other.input[position] if position < len(other.input) else ""
            if not name or reference.is_constant(name):
                continue
            due, seen = reference.source(name), same.get(candidate.source(taken), candidate.source(taken))
            if due != seen:
                yield f"{describe_node(other)} reads {seen!r} where {due!r} is due"
    due, seen = reference.source(reference.output), candidate.source(candidate.output)
    if alignment.mismatch is None and same.get(seen, seen) != due:
        yield f"the output comes from {seen!r} where {due!r} is due"


def _order_like(nodes: list[NodeProto], others: list[NodeProto]) -> list[NodeProto]:
    by_name = {node.name: node for node in others}
    names = [node.name for node in nodes]
    if "" in by_name or len(by_name) != len(others) or len(set(names)) != len(names) or set(names) != set(by_name):
        return others
    return [by_name[name] for name in names]
