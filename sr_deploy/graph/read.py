"""The inputs and outputs of any ONNX file: one image in, one larger image out."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sr_deploy.backends import PRECISIONS, Precision
from sr_deploy.errors import GraphError, ShapeError
from sr_deploy.graph.cost import GraphCost, LayerCost, cost_layers, count_multiply_adds, count_parameters, sum_layers
from sr_deploy.graph.io_dtype import IO_DTYPE_OF, PROBE_NAME, Dtype, expose_nchw, layout_of, read_dtypes
from sr_deploy.graph.load import find_input_output, holding_errors, load_model, opset_of, strip_weights
from sr_deploy.graph.probe import find_scale
from sr_deploy.graph.receptive_field.field import UnknownReceptiveFieldError
from sr_deploy.graph.receptive_field.propagate import estimate_radius, measure_radius
from sr_deploy.graph.scale import LARGE_SIDE, MAX_FIXED_PIXELS, MAX_FIXED_SIDE
from sr_deploy.graph.shapes import InferredShapes, infer_shapes
from sr_deploy.graph.tensors import FP8_TYPES
from sr_deploy.graph.trial import Trial
from sr_deploy.remember import remember_per_file

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

METADATA_PREFIX = "sr_deploy."
_MIN_OPSET = 7  # ONNX Runtime promises no older ones
# Sides of the picture that the receptive field is looked for in, each large enough for networks of another depth.
_RADIUS_SIDES = (LARGE_SIDE, 4 * LARGE_SIDE, 16 * LARGE_SIDE)
_PRECISION_OF_TYPE: dict[int, Precision] = {1: "fp32", 10: "fp16", 16: "bf16"}


@dataclass(frozen=True)
class GraphInfo:
    """The outside of an ONNX graph."""

    path: Path
    input_name: str
    """Name of the image input."""
    output_name: str
    """Name of the image output."""
    input_dtype: Dtype
    output_dtype: Dtype
    scale: int
    """Output pixels per input pixel along each side."""
    channels: int
    """1 or 3, in and out."""
    input_multiple: int
    """Height and width must be multiples of this."""
    smallest_side: int
    """And at least this."""
    least_bytes: int
    """Of the largest tensor inside it, for the smallest input that it takes; 0 if unknown."""
    opset: int
    """Version of ONNX's operator set."""
    dynamic: tuple[str, ...]
    """Axes of the input that take any size, of N, H and W."""
    input_shape: tuple[int | None, int, int | None, int | None]
    """N, C, H, W (in this order, whatever `layout` is) as the file declares them; None where dynamic."""
    precision: Precision
    """Precision of the convolutions: int8 or fp8 where there are quantized ones, else that of the largest weight."""
    metadata: dict[str, str]
    nodes: int
    """Nodes of the graph as the file has it."""

    @property
    def layout(self) -> Literal["NCHW", "NHWC"]:
        """Order of the axes of input and output: NHWC for integers."""
        return layout_of(self.input_dtype)

    @property
    def fixed_shape(self) -> tuple[int, int, int] | None:
        """N, H and W of the one input shape that it takes; None where an axis is dynamic."""
        n, _, h, w = self.input_shape
        return None if n is None or h is None or w is None else (n, h, w)


@remember_per_file
def read_graph(path: Path) -> GraphInfo:
    """Read what an ONNX file takes and gives. Cheap: weights are not looked at.

    Raises:
        InputError: no such file.
        GraphError: no ONNX file, a damaged one, or not one image in and one image out.
    """
    model = load_model(path)
    with holding_errors(path):
        return read_model(path, model, from_file=True)


@remember_per_file
def describe_graph_cost(path: Path) -> GraphCost:
    """What the graph costs for each pixel of its input, and how far it looks.

    Raises:
        InputError: no such file.
        GraphError: as `read_graph`.
    """
    model = load_model(path)
    with holding_errors(path):
        return _describe_cost(path, model)


def _describe_cost(path: Path, model: ModelProto) -> GraphCost:
    info = read_model(path, model, from_file=True)
    shapes, radius = _measure_radius(model, info)
    counted = {} if shapes is None else count_multiply_adds(model.graph, shapes)
    total = sum(counted.values())
    return GraphCost(
        parameters=count_parameters(model.graph),
        flops_per_input_pixel=None if shapes is None else float(2 * total),
        receptive_radius=radius,
        precision_share={precision: float(amount / total) for precision, amount in counted.items()},
        nodes=sum(node.name != PROBE_NAME for node in model.graph.node),
        bytes_per_input_pixel=None if shapes is None else _count_bytes_per_pixel(model, info, shapes),
    )


def describe_layers(model: Path | ModelProto, shape: tuple[int, int, int]) -> tuple[LayerCost, ...]:
    """What each layer of a graph does and moves for one input; `cost.sum_layers` has the totals.

    Args:
        model: an ONNX file, or one in memory, which is left as it is.
        shape: N, H and W of the input.

    Raises:
        InputError: no such file.
        ShapeError: the graph does not take that shape.
        GraphError: as `read_graph`, or the shape of a tensor is unknown.
    """
    if isinstance(model, Path):
        path, probe = model, load_model(model)
    else:
        path, probe = Path("the graph"), copy.deepcopy(model)
    with holding_errors(path):
        info = read_model(path, probe, from_file=isinstance(model, Path))
        return _describe_layers(path, probe, info, shape)


def _describe_layers(
    path: Path, probe: ModelProto, info: GraphInfo, shape: tuple[int, int, int]
) -> tuple[LayerCost, ...]:
    n, h, w = shape
    declared = (info.input_shape[0], *info.input_shape[2:])
    fits = all(have in (None, side) for have, side in zip(declared, shape, strict=True))
    if not fits or min(shape) < 1 or h % info.input_multiple or w % info.input_multiple:
        dims = "x".join(str(side or axis) for axis, side in zip("NHW", declared, strict=True))
        raise ShapeError(
            f"{path} takes inputs of {dims} with sides that are multiples of {info.input_multiple}, not {n}x{h}x{w}"
        )
    return cost_layers(probe.graph, info.input_name, infer_shapes(probe, info.input_name, (n, info.channels, h, w)))


def _count_bytes_per_pixel(model: ModelProto, info: GraphInfo, shapes: InferredShapes) -> float | None:
    try:
        total = sum_layers(cost_layers(model.graph, info.input_name, shapes))
    except GraphError:
        return None  # some tensor's shape is unknown, and the docstring of the field says what None means
    n, _, h, w = shapes.input_shape
    return (total.bytes_read + total.bytes_written) / (n * h * w)


def read_model(path: Path, model: ModelProto, *, from_file: bool) -> GraphInfo:
    """As `read_graph`, for a model in memory; where it is not from the file, `path` is for messages alone.

    The values of its large constants are dropped; one of NHWC images becomes one of NCHW (`expose_nchw`).
    """
    opset = _find_opset(path, model)
    source, target = find_input_output(path, model)
    input_dtype, output_dtype = read_dtypes(path, source, target)
    precision = _find_precision(model)
    nodes = len(model.graph.node)
    strip_weights(model)
    if layout_of(input_dtype) == "NHWC":
        expose_nchw(model)
    input_shape = _read_input_shape(path, model, source)
    channels = input_shape[1]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    found, least_bytes = find_scale(
        Trial(path=str(path), dtype=input_dtype, declared=input_shape),
        model,
        source.name,
        target.name,
        from_file=from_file,
    )
    measured = {"scale": found.scale, "input_multiple": found.multiple, "ends": IO_DTYPE_OF[input_dtype]}
    _check_against_metadata(path, metadata, measured)
    return GraphInfo(
        path=path,
        input_name=source.name,
        output_name=target.name,
        input_dtype=input_dtype,
        output_dtype=output_dtype,
        scale=found.scale,
        channels=channels,
        input_multiple=found.multiple,
        smallest_side=found.smallest,
        least_bytes=least_bytes,
        opset=opset,
        dynamic=tuple(axis for axis, side in zip("NCHW", input_shape, strict=True) if side is None),
        input_shape=input_shape,
        precision=precision,
        metadata=metadata,
        nodes=nodes,
    )


def _measure_radius(model: ModelProto, info: GraphInfo) -> tuple[InferredShapes | None, int | None]:
    """Shapes for some input, and the receptive radius, from the smallest picture that holds it; None if unknown."""
    n, channels, declared_h, declared_w = info.input_shape
    shapes: InferredShapes | None = None
    # A graph of fixed size is tried with other sizes too: only a constant shape inside forbids them.
    # The middle quarter has to see as far as it looks; a side that is too small for that would be inferred in vain.
    expected = estimate_radius(model.graph)
    sides = sorted(_RADIUS_SIDES, key=lambda side: 3 * side // 8 <= expected)
    candidates = [(side, side + LARGE_SIDE) for side in sides]
    if declared_h and declared_w:
        candidates.append((declared_h, declared_w))
    for h, w in candidates:
        tried = infer_shapes(model, info.input_name, (n or 1, channels, h, w))
        output = tried.shape(info.output_name)
        if output is None or output[2:] != (h * info.scale, w * info.scale):
            continue
        shapes = shapes or tried
        try:
            radius = measure_radius(model.graph, info.input_name, info.output_name, tried)
        except UnknownReceptiveFieldError:
            return shapes, None
        if radius is not None:
            return shapes, radius
    return shapes, None


def _find_opset(path: Path, model: ModelProto) -> int:
    opset = opset_of(model)
    if opset < _MIN_OPSET:
        raise GraphError(
            f"{path} uses opset {opset}, and ONNX Runtime runs {_MIN_OPSET} and newer; export it again, or convert it "
            "with onnx.version_converter.convert_version"
        )
    return opset


def _read_input_shape(
    path: Path, model: ModelProto, source: ValueInfoProto
) -> tuple[int | None, int, int | None, int | None]:
    declared = source.type.tensor_type.shape.dim
    dims = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in declared]
    shown = " x ".join(str(size or dim.dim_param or "?") for size, dim in zip(dims, declared, strict=True)) or "no axes"
    if len(dims) != 4:
        raise GraphError(f"{path}: input {source.name!r} has shape {shown}; an image is N x C x H x W")
    n, channels, h, w = dims
    pixels = (n or 1) * (h or 1) * (w or 1)
    if any(side is not None and side > MAX_FIXED_SIDE for side in dims) or pixels > MAX_FIXED_PIXELS:
        raise GraphError(
            f"{path}: input {source.name!r} has shape {shown}; fixed sides up to {MAX_FIXED_SIDE} are taken, and "
            f"{MAX_FIXED_PIXELS} pixels in all; export it with dynamic height and width"
        )
    if channels is None:
        channels = _channels_of_first_convolution(model, source.name)
    if channels not in (1, 3):
        hint = "; channels come last here (NHWC), put a Transpose before it" if dims[3] in (1, 3) else ""
        raise GraphError(f"{path}: input {source.name!r} has shape {shown}; 1 or 3 channels are needed{hint}")
    return n, channels, h, w


def _channels_of_first_convolution(model: ModelProto, input_name: str) -> int | None:
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[0] == input_name and node.input[1] in weights:
            return int(weights[node.input[1]][1])
    return None


def _check_against_metadata(path: Path, metadata: dict[str, str], measured: Mapping[str, object]) -> None:
    for key, value in measured.items():
        stated = metadata.get(METADATA_PREFIX + key)
        if stated is not None and stated != str(value):
            raise GraphError(
                f"{path}: its metadata state {key} {stated}, but its nodes make {value}; the file was changed after "
                "its export; export it again"
            )


def _find_precision(model: ModelProto) -> Precision:
    """int8 or fp8 where there is quantization, else the type of the largest floating-point constant."""
    quantized = {"DequantizeLinear", "QLinearConv", "ConvInteger"}
    if any(node.op_type in quantized for node in model.graph.node):
        in_fp8 = any(tensor.data_type in FP8_TYPES and math.prod(tensor.dims) > 1 for tensor in model.graph.initializer)
        return "fp8" if in_fp8 else "int8"
    sizes: dict[Precision, int] = {}
    for tensor in model.graph.initializer:
        precision = _PRECISION_OF_TYPE.get(tensor.data_type)
        if precision is not None:
            sizes[precision] = sizes.get(precision, 0) + math.prod(tensor.dims)
    return max(PRECISIONS, key=lambda precision: sizes.get(precision, 0)) if sizes else "fp32"
