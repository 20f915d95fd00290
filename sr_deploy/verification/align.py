"""Which node of one graph is which of another that computes the same in another precision. No torch here.

Casts, quantizations and constants are looked through: what is left must be the same nodes in both, wired alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import GraphError
from sr_deploy.graph.check import is_operator
from sr_deploy.graph.load import find_input_output, name_of, read_integer

if TYPE_CHECKING:
    from onnx import AttributeProto, ModelProto, NodeProto

_LOOKED_THROUGH = ("Cast", "QuantizeLinear", "DequantizeLinear", "Identity")


@dataclass(frozen=True)
class Constant:
    """A constant as a node gets it."""

    name: str
    """Of the tensor in the file."""
    stored: NDArray[np.generic]
    """As the file has it."""
    values: NDArray[np.generic]
    """As it comes out of the DequantizeLinear behind it, in double precision; `stored` itself where there is none."""
    scale: NDArray[np.float64] | None = None
    """Step of the quantization, so that it can be multiplied with `values`; None: not quantized."""


class GraphView:
    """A graph as its nodes that compute see it."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._producers = {name: node for node in model.graph.node for name in node.output if name}
        self.input, self.output = (value.name for value in find_input_output("the graph", model))
        self.nodes = [node for node in model.graph.node if not _is_seen_through(node, "Constant")]

    def chain(self, name: str) -> list[NodeProto]:
        """The casts and quantizations that a tensor comes through, the last one first."""
        chain: list[NodeProto] = []
        node = self._producers.get(name)
        while node is not None and _is_seen_through(node) and node.input and len(chain) < len(self._producers):
            chain.append(node)
            node = self._producers.get(node.input[0])
        return chain

    def source(self, name: str) -> str:
        """The tensor behind casts and quantizations."""
        chain = self.chain(name)
        return chain[-1].input[0] if chain else name

    def producer(self, name: str) -> NodeProto | None:
        """The node that gives a tensor; None for inputs and stored constants."""
        return self._producers.get(name)

    def readers(self, name: str) -> list[NodeProto]:
        """All nodes that read a tensor, casts and quantizations too."""
        return [node for node in self.model.graph.node if name in node.input]

    def constant(self, name: str) -> Constant | None:
        """What a constant holds, behind casts and quantizations; None for a tensor that is computed."""
        chain, name = self.chain(name), self.source(name)
        stored = self._read(name)
        if stored is None:
            return None
        quantizer = next((one for one in chain if one.op_type == "DequantizeLinear"), None)
        if quantizer is None:
            return Constant(name, stored, stored)
        scale = self._spread(self.read_scale(quantizer), quantizer, stored.shape)
        zero = self._spread(self.read_zero(quantizer), quantizer, stored.shape)
        return Constant(name, stored, (stored.astype(np.float64) - zero) * scale, scale)

    def is_constant(self, name: str) -> bool:
        """Whether `constant` would give something; without reading it."""
        source = self.source(name)
        node = self._producers.get(source)
        return source in self._tensors or (node is not None and node.op_type == "Constant")

    def read_scale(self, node: NodeProto) -> NDArray[np.float64]:
        """Steps of a QuantizeLinear or DequantizeLinear; NaN where they are computed."""
        read = self.constant(node.input[1]) if len(node.input) > 1 else None
        return np.full((), np.nan) if read is None else np.asarray(read.values, np.float64)

    def read_zero(self, node: NodeProto) -> NDArray[np.float64]:
        """Its zero points, 0 where it has none; NaN where they are computed."""
        if len(node.input) < 3 or not node.input[2]:
            return np.zeros(())
        read = self._read(node.input[2])
        return np.full((), np.nan) if read is None else np.asarray(read, np.float64)

    def _spread(self, values: NDArray[np.float64], node: NodeProto, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Steps or zero points so that they can be combined with what they are for."""
        if values.size == 1:
            return values.reshape(())
        axis = read_integer(node, "axis", 1)
        if not -len(shape) <= axis < len(shape) or values.shape != (shape[axis],):
            raise GraphError(
                f"{describe_node(node)} has {values.size} steps or zero points in axis {axis} for a tensor of {shape}; "
                "one, or one for each channel, is needed; export it again"
            )
        spread = [1] * len(shape)
        spread[axis] = values.size
        return values.reshape(spread)

    def _read(self, name: str) -> NDArray[np.generic] | None:
        from onnx import numpy_helper

        tensor = self._tensors.get(name)
        if tensor is not None:
            return np.asarray(numpy_helper.to_array(tensor))
        node = self._producers.get(name)
        if node is None or not is_operator(node, "Constant"):
            return None
        for attribute in node.attribute:
            value = read_attribute(attribute)
            if attribute.name.startswith("value") and not isinstance(value, str):
                return np.asarray(value)
        return None


def _is_seen_through(node: NodeProto, *more: str) -> bool:
    return is_operator(node, *_LOOKED_THROUGH, *more)


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
        if _operator(node) != _operator(other):
            return Alignment(
                tuple(pairs), f"node {number} is {describe_node(other)} where {describe_node(node)} is due"
            )
        pairs.append((node, other))
    more, fewer = others[len(pairs) :], reference.nodes[len(pairs) :]
    if more:
        return Alignment(tuple(pairs), f"it has {len(more)} node(s) too many, first {describe_node(more[0])}")
    if fewer:
        return Alignment(tuple(pairs), f"it lacks {len(fewer)} node(s), first {describe_node(fewer[0])}")
    return Alignment(tuple(pairs))


def describe_node(node: NodeProto) -> str:
    """As in `Conv 'node_conv2d_3'`."""
    return f"{node.op_type} {name_of(node)!r}"


def list_wiring(reference: GraphView, candidate: GraphView, alignment: Alignment) -> Iterator[str]:
    """Inputs of nodes, and the graph's output, that come from elsewhere than in the reference, one line each."""
    same = {"": "", candidate.input: reference.input}
    for node, other in alignment.pairs:
        same.update(zip(other.output, node.output, strict=False))
    for node, other in alignment.pairs:
        for name, taken in zip_longest(node.input, other.input, fillvalue=""):
            if reference.is_constant(name) or candidate.is_constant(taken):
                continue  # the audit compares those
            due, read = reference.source(name), candidate.source(taken)
            if due != same.get(read):
                yield f"{describe_node(other)} reads {same.get(read, read)!r} where {due!r} is due"
    due, read = reference.source(reference.output), candidate.source(candidate.output)
    if alignment.mismatch is None and same.get(read) != due:
        yield f"the output comes from {same.get(read, read)!r} where {due!r} is due"


def _operator(node: NodeProto) -> tuple[str, str]:
    return "" if is_operator(node) else node.domain, node.op_type


def _order_like(nodes: list[NodeProto], others: list[NodeProto]) -> list[NodeProto]:
    by_name = {node.name: node for node in others}
    names = [node.name for node in nodes]
    if "" in by_name or len(by_name) != len(others) or len(set(names)) != len(names) or set(names) != set(by_name):
        return others
    return [by_name[name] for name in names]
