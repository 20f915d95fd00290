"""The shapes that a graph's tensors take for a given input, node by node, by ONNX's own rules for each operator.

One pass in the order of the nodes: what exporters compute shapes with is evaluated on the way, and nothing is made that
is larger than a shape. ONNX's inference of whole models does neither: it gives up on much of that arithmetic, and fills
the memory with values of tensors that a file of 300 bytes asks for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sr_deploy.graph.arithmetic import SMALL_RESULT, divides_by_zero, evaluate_node
from sr_deploy.graph.check import find_schema, is_operator
from sr_deploy.graph.load import opset_of, read_integers, read_text
from sr_deploy.graph.order import names_read_inside
from sr_deploy.graph.tensors import count_elements, is_outside

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, TensorProto, TypeProto


@dataclass(frozen=True)
class TensorFacts:
    """What is known of a tensor."""

    dtype: int
    """ONNX element type; 0 where unknown."""
    shape: tuple[int, ...] | None
    """None where a side is unknown."""


@dataclass(frozen=True)
class InferredShapes:
    """Every tensor of a graph, for one shape of the input."""

    input_shape: tuple[int, ...]
    """N x C x H x W."""
    tensors: dict[str, TensorFacts]
    """By name; those of which nothing is known are left out."""
    constants: dict[str, NDArray[np.generic]]
    """Values of the small tensors that do not depend on the image, shapes among them."""
    division: str | None = None
    """Name of the first result of a division of integers by zero, which ends the process of some backends."""

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor, or None where it is unknown."""
        facts = self.tensors.get(name)
        return facts.shape if facts else None


def infer_shapes(model: ModelProto, input_name: str, input_shape: tuple[int, ...]) -> InferredShapes:
    """Shapes of all tensors when the input has `input_shape`.

    What follows a node whose inputs do not fit each other is unknown. Recorded shapes count for nothing: they hold
    names of axes, or the sizes of the export.

    Args:
        model: with or without the values of its weights (`strip_weights`); not changed.
        input_name: its image input.
        input_shape: N x C x H x W.
    """
    inference = _Inference(model)
    inference.enter_inputs(input_name, input_shape)
    for node in model.graph.node:
        inference.add(node)
    declared = {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
    unknown = {name: TensorFacts(dtype, None) for name, dtype in declared.items()}
    tensors = unknown | {name: _facts_of(kind) for name, kind in inference.types.items()}
    return InferredShapes(input_shape, tensors, inference.constants, inference.division)


def _facts_of(kind: TypeProto) -> TensorFacts:
    tensor = kind.tensor_type
    if not tensor.HasField("shape"):
        return TensorFacts(tensor.elem_type, None)
    dims = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None for dim in tensor.shape.dim]
    known = tuple(side for side in dims if side is not None)
    return TensorFacts(tensor.elem_type, known if len(known) == len(dims) else None)


class _Inference:
    """Types, shapes and small values, as far as the nodes have been gone through."""

    def __init__(self, model: ModelProto) -> None:
        from onnx import helper

        self._model = model
        self._opset = opset_of(model)
        self._imports = [helper.make_opsetid("", self._opset)]
        self.types: dict[str, TypeProto] = {}
        self.constants: dict[str, NDArray[np.generic]] = {}
        self.division: str | None = None
        self._tensors: dict[str, TensorProto] = {}  # the same values, for rules that read them

    def enter_inputs(self, input_name: str, input_shape: tuple[int, ...]) -> None:
        from onnx import helper

        for value in self._model.graph.input:
            self.types[value.name] = value.type
        for value in self._model.graph.input:
            if value.name == input_name:
                self.types[input_name] = helper.make_tensor_type_proto(value.type.tensor_type.elem_type, input_shape)
        for tensor in self._model.graph.initializer:
            self._enter_tensor(tensor.name, tensor)

    def add(self, node: NodeProto) -> None:
        """Find out about the results of the next node."""
        if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].HasField("t"):
            self._enter_tensor(node.output[0], node.attribute[0].t)
            return
        if is_operator(node, "If"):
            self._add_branches(node)
            return
        if self.division is None and divides_by_zero(node, self.constants):
            self.division = node.output[0]
        values = evaluate_node(node, self._opset, self.constants, self._known_shape)
        if values is None:
            self.types.update(self._infer(node))
            return
        for name, value in zip(node.output, values, strict=False):
            if name:
                self._enter_value(name, value)

    def _add_branches(self, node: NodeProto) -> None:
        """Go through both branches; the results are those of the one that is taken, or of both where they agree."""
        branches = {one.name: one.g for one in node.attribute if one.HasField("g")}
        for branch in branches.values():
            for tensor in branch.initializer:
                self._enter_tensor(tensor.name, tensor)
            for inner in branch.node:
                self.add(inner)
        taken = self.constants.get(node.input[0])
        if taken is not None and taken.size == 1:
            branches = {"taken": branches["then_branch" if taken.item() else "else_branch"]}
        outputs = [[value.name for value in branch.output] for branch in branches.values()]
        for name, sources in zip(node.output, zip(*outputs, strict=False), strict=False):
            kinds = [self.types.get(source) for source in sources]
            if kinds[0] is not None and all(kind == kinds[0] for kind in kinds):
                self.types[name] = kinds[0]

    def _known_shape(self, name: str) -> tuple[int, ...] | None:
        kind = self.types.get(name)
        return None if kind is None else _facts_of(kind).shape

    def _enter_tensor(self, name: str, tensor: TensorProto) -> None:
        from onnx import helper, numpy_helper

        self.types[name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        if count_elements(tensor) <= SMALL_RESULT and not is_outside(tensor):
            self.constants[name] = numpy_helper.to_array(tensor)
            self._tensors[name] = tensor

    def _enter_value(self, name: str, value: NDArray[np.generic]) -> None:
        from onnx import helper, numpy_helper

        self.constants[name] = value
        self._tensors[name] = numpy_helper.from_array(value, name)
        self.types[name] = helper.make_tensor_type_proto(self._tensors[name].data_type, value.shape)

    def _infer(self, node: NodeProto) -> dict[str, TypeProto]:
        from onnx import checker, shape_inference

        schema = find_schema(node.op_type, self._opset) if is_operator(node) else None
        if schema is None or any(name and name not in self.types for name in node.input):
            return {}
        if node.op_type == "Pad" and self._mirrors_too_far(node):
            return {}
        read = [name for name in (*node.input, *_read_inside(node)) if name]
        known = {name: self.types[name] for name in read if name in self.types}
        if any(_is_impossible(kind) for kind in known.values()):
            return {}  # ONNX's rule for Slice ends the process over these
        try:
            return shape_inference.infer_node_outputs(
                schema,
                node,
                known,
                {name: self._tensors[name] for name in read if name in self._tensors},
                opset_imports=self._imports,
            )
        except (shape_inference.InferenceError, checker.ValidationError, RuntimeError, ValueError):
            return {}  # its inputs do not fit each other

    def _mirrors_too_far(self, node: NodeProto) -> bool:
        """Whether it mirrors more than there is, which ONNX's rule for shapes lets pass and backends refuse."""
        dims = self._known_shape(node.input[0])
        pads, axes = (self.constants.get(name) for name in (*node.input, "", "", "")[1:4:2])
        if dims is None or read_text(node, "mode", "constant") != "reflect":
            return False
        widths = read_integers(node, "pads", ()) if pads is None else tuple(int(one) for one in pads.ravel())
        chosen = range(len(dims)) if axes is None else [int(axis) for axis in axes.ravel()]
        if len(widths) != 2 * len(chosen):
            return False
        return any(max(widths[at], widths[at + len(chosen)]) >= dims[axis] for at, axis in enumerate(chosen))


def _is_impossible(kind: TypeProto) -> bool:
    """Whether a side is negative, as of a convolution whose window is larger than its input."""
    return any(dim.dim_value < 0 for dim in kind.tensor_type.shape.dim)


def _read_inside(node: NodeProto) -> Iterable[str]:
    return names_read_inside(node) if any(one.HasField("g") or one.graphs for one in node.attribute) else ()
