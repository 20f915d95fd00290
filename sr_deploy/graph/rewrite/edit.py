"""A graph that is being changed: who makes a tensor, who takes it, and which of them are constants."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from sr_deploy.graph.change import set_nodes
from sr_deploy.graph.check import is_operator
from sr_deploy.graph.order import inner_graphs, names_read_inside, sort_nodes

Array = NDArray[np.generic]

_CONSTANT_FIELDS = {"value_float": "f", "value_floats": "floats", "value_int": "i", "value_ints": "ints"}


class EditableGraph:
    """Nodes of a model in a list, with an index that stays right while nodes are replaced.

    Nothing reaches the model before `commit`. Tensors that a subgraph (`If`, `Loop`, `Scan`) reads count as used by
    an unknown node, so that no rewrite removes them.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        # Both are filled by `spatial_dims`: replacing nodes does not change the shapes of tensors.
        self.channels: dict[str, int | None] = {}
        self.spatial_multiples: dict[tuple[str, int], bool] = {}
        self.nodes: list[onnx.NodeProto] = [copy.deepcopy(node) for node in model.graph.node]
        self._outputs = {value.name for value in model.graph.output}
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._added: dict[str, Array] = {}
        self._values: dict[str, Array | None] = {}
        self._names = _all_names(model.graph)
        self._index()

    def _index(self) -> None:
        self._producers: dict[str, onnx.NodeProto] = {}
        self._users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self._elsewhere = set(self._outputs)
        for node in self.nodes:
            self._enter(node)

    def _enter(self, node: onnx.NodeProto) -> None:
        for name in node.output:
            if name:
                self._producers[name] = node
        for name in node.input:
            if name:
                self._users[name].append(node)
        self._elsewhere.update(names_read_inside(node))

    def _leave(self, node: onnx.NodeProto) -> None:
        """What a subgraph in it reads stays marked as read: that forbids rewrites and allows none."""
        for name in node.output:
            if self._producers.get(name) is node:
                del self._producers[name]
        for name in node.input:
            self._users[name] = [one for one in self._users[name] if one is not node]

    def of_type(self, *op_types: str) -> Iterator[onnx.NodeProto]:
        """Nodes of ONNX's own operators, in order; those that a replacement has taken away are passed over."""
        for node in list(self.nodes):
            if is_operator(node, *op_types) and self._producers.get(node.output[0]) is node:
                yield node

    def producer(self, name: str, *op_types: str) -> onnx.NodeProto | None:
        """The node that makes a tensor, if it is one of these operators and the tensor is its first result."""
        node = self._producers.get(name)
        if node is None or not is_operator(node, *op_types) or node.output[0] != name:
            return None
        return node

    def users(self, name: str) -> list[onnx.NodeProto]:
        """Nodes that take a tensor, once for each time."""
        return list(self._users.get(name, ()))

    def is_private(self, name: str) -> bool:
        """Whether exactly one node takes the tensor, once, and it is not an output of the graph."""
        return name not in self._elsewhere and len(self._users.get(name, ())) == 1

    def only_user(self, name: str, *op_types: str) -> onnx.NodeProto | None:
        """The one node that takes a private tensor, if it is one of these operators."""
        if not self.is_private(name):
            return None
        (user,) = self._users[name]
        return user if is_operator(user, *op_types) else None

    def constant(self, name: str) -> Array | None:
        """The value of a constant: an initializer, a Constant node, or either behind Identity; None for all else."""
        if name not in self._values:
            self._values[name] = self._read_constant(name)
        return self._values[name]

    def weights(self, name: str) -> NDArray[np.float32] | None:
        """As `constant`, for FP32 alone: nothing else is rewritten."""
        value = self.constant(name)
        return value.astype(np.float32, copy=False) if value is not None and value.dtype == np.float32 else None

    def _read_constant(self, name: str) -> Array | None:
        tensor = self._tensors.get(name)
        node = self._producers.get(name)
        if tensor is not None:
            return _to_array(tensor)
        if node is None or not is_operator(node, "Constant", "Identity"):
            return None
        if node.op_type == "Identity":
            return self._read_constant(node.input[0])
        for attribute in node.attribute:
            if attribute.name == "value":
                return _to_array(attribute.t)
            if attribute.name in _CONSTANT_FIELDS:
                dtype = np.float32 if "float" in attribute.name else np.int64
                return np.asarray(getattr(attribute, _CONSTANT_FIELDS[attribute.name]), dtype=dtype)
        return None

    def add_constant(self, value: Array, hint: str) -> str:
        """Store a new constant and return its name, which begins with `hint`."""
        name = self.new_name(hint)
        self._added[name] = self._values[name] = value
        return name

    def new_name(self, hint: str) -> str:
        """A name that nothing in the graph or its subgraphs has."""
        name, number = hint, 0
        while name in self._names:
            number += 1
            name = f"{hint}.{number}"
        self._names.add(name)
        return name

    def replace(self, old: Sequence[onnx.NodeProto], new: Sequence[onnx.NodeProto]) -> None:
        """Put `new` where the last of `old` stood, and take `old` away.

        The results of `old` that others take must be among the results of `new`.
        """
        where = list(map(id, self.nodes))
        indices = sorted(where.index(id(node)) for node in old)
        self.nodes[indices[-1] + 1 : indices[-1] + 1] = new
        for place in reversed(indices):
            del self.nodes[place]
        # By what changed alone: a large network has hundreds of replacements.
        for node in old:
            self._leave(node)
        for node in new:
            self._enter(node)

    def redirect(self, name: str, replacement: str, users: Iterable[onnx.NodeProto]) -> None:
        """Let `users` take another tensor in the place of `name`."""
        for user in users:
            user.input[:] = [replacement if one == name else one for one in user.input]
        self._index()

    def tidy(self) -> None:
        """Drop unused nodes, and sort the others topologically."""
        self._drop_unused()
        self.nodes = sort_nodes(self.nodes)

    def commit(self) -> None:
        """Write the nodes to the model, as `tidy` leaves them, and the constants that they need. It is done with then.

        The graph is to be made anew for more changes.
        """
        graph = self.model.graph
        self.tidy()
        set_nodes(graph, self.nodes)
        used = {name for node in self.nodes for name in (*node.input, *names_read_inside(node))} | self._outputs
        unused = {tensor.name for tensor in graph.initializer} - used
        # In place: to take all out and put them back would copy every weight.
        for place in reversed(range(len(graph.initializer))):
            if graph.initializer[place].name in unused:
                del graph.initializer[place]
        graph.initializer.extend(
            numpy_helper.from_array(np.ascontiguousarray(value), name)
            for name, value in sorted(self._added.items())
            if name in used
        )
        # Old files list constants among the inputs; one that is gone must not be asked for.
        for place in reversed(range(len(graph.input))):
            if graph.input[place].name in unused:
                del graph.input[place]
        made = {name for node in self.nodes for name in node.output}
        for place in reversed(range(len(graph.value_info))):
            if graph.value_info[place].name not in made:
                del graph.value_info[place]

    def _drop_unused(self) -> None:
        """Keep the nodes that an output is made of."""
        needed = set[int]()
        waiting = list(self._outputs)
        while waiting:
            node = self._producers.get(waiting.pop())
            if node is not None and id(node) not in needed:
                needed.add(id(node))
                waiting += [*node.input, *names_read_inside(node)]
        self.nodes = [node for node in self.nodes if id(node) in needed]
        self._index()


def _to_array(tensor: onnx.TensorProto) -> Array | None:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    value: Array = numpy_helper.to_array(tensor)
    return value


def _all_names(graph: onnx.GraphProto) -> set[str]:
    names = {item.name for item in (*graph.input, *graph.output, *graph.initializer, *graph.node)}
    for node in graph.node:
        names.update((*node.input, *node.output))
        for inner in inner_graphs(node):
            names |= _all_names(inner)
    return names
