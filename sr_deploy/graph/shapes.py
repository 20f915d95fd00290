"""The shapes that a graph's tensors take for a given input, by ONNX's own shape inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sr_deploy.graph.load import opset_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

_MAX_ROUNDS = 32
_SMALL_RESULT = 1024
# What exporters compute shapes with. Shape inference follows some of it; the rest is evaluated here.
# fmt: off
_SHAPE_ARITHMETIC = frozenset((
    "Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Concat", "ConstantOfShape", "Div", "Equal", "Expand",
    "Floor", "Gather", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod",
    "Mul", "Neg", "Not", "Or", "Range", "ReduceProd", "Reshape", "Round", "Shape", "Size", "Slice", "Sqrt",
    "Squeeze", "Sub", "Unsqueeze", "Where",
))
# fmt: on


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
    """By name."""
    constants: dict[str, NDArray[np.generic]]
    """Values of the small tensors that do not depend on the image, shapes among them."""

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor, or None where it is unknown."""
        facts = self.tensors.get(name)
        return facts.shape if facts else None


def infer_shapes(model: ModelProto, input_name: str, input_shape: tuple[int, ...]) -> InferredShapes | None:
    """Shapes of all tensors when the input has `input_shape`; None where ONNX finds a contradiction.

    Args:
        model: as `strip_weights` leaves it; not changed.
        input_name: its image input.
        input_shape: N x C x H x W.
    """
    probe = _prepare_probe(model, input_name, input_shape)
    constants = _read_constants(probe)
    output_names = [value.name for value in probe.graph.output]
    for _ in range(_MAX_ROUNDS):
        tensors = _infer_once(probe)
        if tensors is None:
            return None
        inferred = InferredShapes(input_shape, tensors, constants)
        if all(inferred.shape(name) is not None for name in output_names):
            return inferred
        if not _evaluate_arithmetic(probe, inferred):
            break
    return inferred


def _prepare_probe(model: ModelProto, input_name: str, input_shape: tuple[int, ...]) -> ModelProto:
    import onnx

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    # Recorded shapes hold names of axes, or the sizes of the export: both would contradict the probe.
    del probe.graph.value_info[:]
    for value in probe.graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in probe.graph.input:
        if value.name == input_name:
            value.type.tensor_type.ClearField("shape")
            for side in input_shape:
                value.type.tensor_type.shape.dim.add().dim_value = side
    return probe


def _infer_once(probe: ModelProto) -> dict[str, TensorFacts] | None:
    from onnx import shape_inference

    try:
        graph = shape_inference.infer_shapes(probe, data_prop=True, strict_mode=False).graph
    except (shape_inference.InferenceError, RuntimeError, ValueError):
        return None
    tensors = {value.name: _facts_of(value) for value in (*graph.input, *graph.value_info, *graph.output)}
    tensors |= {tensor.name: TensorFacts(tensor.data_type, tuple(tensor.dims)) for tensor in graph.initializer}
    return tensors


def _facts_of(value: ValueInfoProto) -> TensorFacts:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return TensorFacts(kind.elem_type, None)
    sides = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    known = tuple(side for side in sides if side is not None)
    return TensorFacts(kind.elem_type, known if len(known) == len(sides) else None)


def _read_constants(probe: ModelProto) -> dict[str, NDArray[np.generic]]:
    """Values of small constants, both kinds: initializers and Constant nodes."""
    constants: dict[str, NDArray[np.generic]] = {}
    for tensor in probe.graph.initializer:
        _keep_value(constants, tensor.name, tensor)
    for node in probe.graph.node:
        if node.op_type != "Constant":
            continue
        for attribute in node.attribute:
            if attribute.name == "value":
                _keep_value(constants, node.output[0], attribute.t)
            elif attribute.name in ("value_int", "value_ints"):
                whole = attribute.i if attribute.name == "value_int" else list(attribute.ints)
                constants[node.output[0]] = np.array(whole, dtype=np.int64)
            elif attribute.name in ("value_float", "value_floats"):
                real = attribute.f if attribute.name == "value_float" else list(attribute.floats)
                constants[node.output[0]] = np.array(real, dtype=np.float32)
    return constants


def _keep_value(constants: dict[str, NDArray[np.generic]], name: str, tensor: TensorProto) -> None:
    from onnx import TensorProto, numpy_helper

    if np.prod(tensor.dims) <= _SMALL_RESULT and tensor.data_location != TensorProto.EXTERNAL:
        constants[name] = numpy_helper.to_array(tensor)


def _evaluate_arithmetic(probe: ModelProto, inferred: InferredShapes) -> bool:
    """Replace nodes whose result follows from known shapes by constants; whether there were any."""
    from onnx import numpy_helper

    kept: list[NodeProto] = []
    found = False
    opset = opset_of(probe)
    for node in probe.graph.node:
        values = _evaluate_node(node, inferred, opset)
        if values is None:
            kept.append(node)
            continue
        found = True
        for name, value in zip(node.output, values, strict=True):
            inferred.constants[name] = value
            probe.graph.initializer.append(numpy_helper.from_array(value, name))
    if found:
        nodes = [_copy_node(node) for node in kept]
        del probe.graph.node[:]
        probe.graph.node.extend(nodes)
    return found


def _copy_node(node: NodeProto) -> NodeProto:
    from onnx import NodeProto

    copied = NodeProto()
    copied.CopyFrom(node)
    return copied


def _evaluate_node(node: NodeProto, inferred: InferredShapes, opset: int) -> list[NDArray[np.generic]] | None:
    """The node's results, if it is shape arithmetic and its inputs are known."""
    if node.op_type not in _SHAPE_ARITHMETIC or node.domain not in ("", "ai.onnx"):
        return None
    inputs = [name for name in node.input if name]
    if node.op_type in ("Shape", "Size"):
        shape = inferred.shape(inputs[0])
        # A picture of zeros without memory behind it stands for the tensor: only its shape is asked.
        if shape is None:
            return None
        feed: dict[str, NDArray[np.generic]] = {inputs[0]: np.broadcast_to(np.float32(0), shape)}
    else:
        if not inputs or any(name not in inferred.constants for name in inputs):
            return None
        feed = {name: inferred.constants[name] for name in inputs}
    return _run_node(node, feed, opset)


def _run_node(node: NodeProto, feed: dict[str, NDArray[np.generic]], opset: int) -> list[NDArray[np.generic]] | None:
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in feed.items()
        ],
        [helper.make_empty_tensor_value_info(name) for name in node.output],
    )
    one = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        results = [np.asarray(value) for value in ReferenceEvaluator(one).run(None, feed)]
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError, ZeroDivisionError):
        return None  # such a node stays, and what depends on it stays unknown
    return results if all(value.size <= _SMALL_RESULT for value in results) else None
