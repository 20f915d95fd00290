"""How far a graph looks: for each output pixel, the interval of input pixels that it depends on, along each side.

Each tensor carries, for its axes that follow a side of the image, the lowest and the highest input index that each of
its indices depends on. Going through the nodes in order gives those of the output: exact for what moves pixels by fixed
steps (convolution, pooling, resizing, shuffling, slicing, padding), and never too small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from sr_deploy.graph import moves, windows
from sr_deploy.graph.spans import Budget, Span, Spans, Step, UnknownReachError

if TYPE_CHECKING:
    from onnx import GraphProto

    from sr_deploy.graph.shapes import InferredShapes


def measure_radius(graph: GraphProto, input_name: str, output_name: str, shapes: InferredShapes) -> int | None:
    """Input pixels on each side of an output pixel's own that can change it.

    None where the picture that `shapes` was inferred for is too small to tell.

    Raises:
        UnknownReachError: a node is not followed.
    """
    spans = follow_spans(graph, input_name, output_name, shapes)
    radius = 0
    for axis in (2, 3):
        span = spans[axis] if len(spans) == 4 else None
        if span is None or span.side != axis:
            raise UnknownReachError(f"axis {axis} of the output does not follow the image")
        length = shapes.input_shape[axis]
        own = np.arange(len(span.low)) * length // len(span.low)
        # A quarter of the length around the middle holds a whole period of every stride that is looked for.
        middle = (own >= 3 * length // 8) & (own < 5 * length // 8)
        low, high, own = span.low[middle], span.high[middle], own[middle]
        if low.min() <= 0 or high.max() >= length - 1:
            return None
        radius = max(radius, int((own - low).max()), int((high - own).max()))
    return radius


def follow_spans(graph: GraphProto, input_name: str, output_name: str, shapes: InferredShapes) -> Spans:
    """The spans of the output.

    Raises:
        UnknownReachError: a node is not followed.
    """
    shape = shapes.input_shape
    known: dict[str, Spans] = {
        input_name: (None, None, *(Span(side, np.arange(shape[side]), np.arange(shape[side])) for side in (2, 3)))
    }
    budget = Budget()
    for node in graph.node:
        if node.op_type in ("Shape", "Size") or not any(name in known for name in node.input):
            continue  # not of the image's pixels
        rule = _RULES.get(node.op_type)
        if rule is None:
            raise UnknownReachError(f"{node.op_type} is not followed")
        budget.spend(sum(shapes.shape(node.output[0]) or ()))
        spans = rule(Step(node, known, shapes, budget))
        for name in node.output:
            known[name] = spans
    if output_name not in known:
        raise UnknownReachError(f"the output {output_name!r} does not depend on the input")
    return known[output_name]


# fmt: off
_ELEMENTWISE = (
    "Abs", "Add", "BatchNormalization", "Cast", "CastLike", "Ceil", "Celu", "Clip", "DequantizeLinear", "Div",
    "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Max",
    "Mean", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu",
    "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu", "Where",
)
# fmt: on
_RULES: dict[str, Callable[[Step], Spans]] = {
    **dict.fromkeys(_ELEMENTWISE, windows.follow_elementwise),
    **dict.fromkeys(
        ("Conv", "QLinearConv", "ConvInteger", "MaxPool", "AveragePool", "LpPool"),
        windows.follow_window,
    ),
    "ConvTranspose": windows.follow_transposed,
    "Resize": windows.follow_resize,
    "Upsample": windows.follow_resize,
    "DepthToSpace": windows.follow_depth_to_space,
    "SpaceToDepth": windows.follow_space_to_depth,
    "Concat": moves.follow_concat,
    "Transpose": moves.follow_transpose,
    "Reshape": moves.follow_reshape,
    "Squeeze": moves.follow_squeeze,
    "Unsqueeze": moves.follow_unsqueeze,
    "Slice": moves.follow_slice,
    "Pad": moves.follow_pad,
    "Split": moves.follow_split,
}
FOLLOWED = frozenset(_RULES)
"""Operators that are followed."""
