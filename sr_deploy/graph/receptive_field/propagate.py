"""Propagates receptive fields through a graph: the input pixels that each output pixel depends on, along each axis.

Each tensor carries, for its axes that follow the image's height or width, the lowest and the highest input index that
each of its indices depends on. Going through the nodes in order gives those of the output: exact for what moves pixels
by fixed steps (convolution, pooling, resizing, shuffling, slicing, padding), and never too small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from sr_deploy.graph.load import read_integers
from sr_deploy.graph.receptive_field import compute_ops, layout_ops
from sr_deploy.graph.receptive_field.field import AxisField, AxisFields, Budget, NodeContext, UnknownReceptiveFieldError

if TYPE_CHECKING:
    from onnx import GraphProto

    from sr_deploy.graph.shapes import InferredShapes


def measure_radius(graph: GraphProto, input_name: str, output_name: str, shapes: InferredShapes) -> int | None:
    """Input pixels on each side of an output pixel's own that can change it.

    None where the image that `shapes` was inferred for is too small to tell.

    Raises:
        UnknownReceptiveFieldError: the receptive field of a node is not known.
    """
    fields = propagate_fields(graph, input_name, output_name, shapes)
    radius = 0
    for axis in (2, 3):
        field = fields[axis] if len(fields) == 4 else None
        if field is None or field.image_axis != axis:
            raise UnknownReceptiveFieldError(f"axis {axis} of the output does not follow the image")
        length = shapes.input_shape[axis]
        own = np.arange(len(field.low)) * length // len(field.low)
        # A quarter of the length around the middle holds a whole period of every stride that is looked for.
        middle = (own >= 3 * length // 8) & (own < 5 * length // 8)
        low, high, own = field.low[middle], field.high[middle], own[middle]
        if low.min() <= 0 or high.max() >= length - 1:
            return None
        radius = max(radius, int((own - low).max()), int((high - own).max()))
    return radius


def estimate_radius(graph: GraphProto) -> int:
    """The radius without the image: the longest way through the graph, half a kernel for each convolution on it.

    Exact for stacks of convolutions at the input's size; strides and what comes after upsampling are not told apart.
    """
    dims = {tensor.name: tensor.dims for tensor in graph.initializer}
    radius: dict[str, int] = {}
    for node in graph.node:
        longest = max((radius.get(name, 0) for name in node.input), default=0)
        if node.op_type == "Conv":
            kernel = read_integers(node, "kernel_shape", ()) or tuple(dims.get(node.input[1], ()))[2:]
            dilations = read_integers(node, "dilations", (1,) * len(kernel))
            longest += max(
                (dilation * (size - 1) // 2 for size, dilation in zip(kernel, dilations, strict=False)), default=0
            )
        radius.update(dict.fromkeys(node.output, longest))
    return max(radius.values(), default=0)


def propagate_fields(graph: GraphProto, input_name: str, output_name: str, shapes: InferredShapes) -> AxisFields:
    """The receptive fields of the output's axes.

    Raises:
        UnknownReceptiveFieldError: the receptive field of a node is not known.
    """
    shape = shapes.input_shape
    known: dict[str, AxisFields] = {
        input_name: (None, None, *(AxisField(axis, np.arange(shape[axis]), np.arange(shape[axis])) for axis in (2, 3)))
    }
    budget = Budget()
    for node in graph.node:
        if node.op_type in ("Shape", "Size") or not any(name in known for name in node.input):
            continue  # not of the image's pixels
        rule = _RULES.get(node.op_type)
        if rule is None:
            raise UnknownReceptiveFieldError(f"{node.op_type} is not supported")
        budget.spend(sum(shapes.shape(node.output[0]) or ()))
        fields = rule(NodeContext(node, known, shapes, budget))
        for name in node.output:
            known[name] = fields
    if output_name not in known:
        raise UnknownReceptiveFieldError(f"the output {output_name!r} does not depend on the input")
    return known[output_name]


# fmt: off
_ELEMENTWISE = (
    "Abs", "Add", "BatchNormalization", "Cast", "CastLike", "Ceil", "Celu", "Clip", "DequantizeLinear", "Div",
    "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Max",
    "Mean", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu",
    "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu", "Where",
)
# fmt: on
_RULES: dict[str, Callable[[NodeContext], AxisFields]] = {
    **dict.fromkeys(_ELEMENTWISE, compute_ops.propagate_elementwise),
    **dict.fromkeys(
        ("Conv", "QLinearConv", "ConvInteger", "MaxPool", "AveragePool", "LpPool"),
        compute_ops.propagate_window,
    ),
    "ConvTranspose": compute_ops.propagate_transposed,
    "Resize": compute_ops.propagate_resize,
    "Upsample": compute_ops.propagate_resize,
    "DepthToSpace": compute_ops.propagate_depth_to_space,
    "SpaceToDepth": compute_ops.propagate_space_to_depth,
    "Concat": layout_ops.propagate_concat,
    "Transpose": layout_ops.propagate_transpose,
    "Reshape": layout_ops.propagate_reshape,
    "Squeeze": layout_ops.propagate_squeeze,
    "Unsqueeze": layout_ops.propagate_unsqueeze,
    "Slice": layout_ops.propagate_slice,
    "Pad": layout_ops.propagate_pad,
    "Split": layout_ops.propagate_split,
}
SUPPORTED = frozenset(_RULES)
"""Operators whose receptive field is known."""
