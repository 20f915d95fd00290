"""Type and layout of a graph's input and output, and the conversions inside the graph that they stand for.

A host that has 8-bit pictures need not know what a network computes in: with `uint8` it hands them over as they are and
gets such back, a quarter of the bytes of FP32 each way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from sr_deploy.errors import GraphError
from sr_deploy.graph.change import rename_tensors, set_nodes, take_name
from sr_deploy.graph.load import find_input_output, read_integer

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto, NodeProto, ValueInfoProto

IoDtype = Literal["fp32", "fp16", "uint8", "uint16"]
"""`fp32`, `fp16`: N x C x H x W in [0, 1]. `uint8`, `uint16`: N x H x W x C integers, as decoders give them."""
Dtype = Literal["float32", "float16", "uint8", "uint16"]
"""The same as types of arrays."""

IO_DTYPES: tuple[IoDtype, ...] = get_args(IoDtype)
ARRAY_DTYPE_OF: dict[IoDtype, Dtype] = {"fp32": "float32", "fp16": "float16", "uint8": "uint8", "uint16": "uint16"}
IO_DTYPE_OF: dict[Dtype, IoDtype] = {dtype: io_dtype for io_dtype, dtype in ARRAY_DTYPE_OF.items()}
HIGHEST: dict[Dtype, int] = {"uint8": 255, "uint16": 65535}
"""The number that stands for 1.0."""
PROBE_NAME = "sr_deploy.probe"
"""Name of the nodes that `expose_nchw` adds: no part of the graph, and not counted."""

DTYPES: dict[int, Dtype] = {1: "float32", 10: "float16", 2: "uint8", 4: "uint16"}
_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)
_BEFORE, _BEHIND = ("Cast", "Div", "Transpose"), ("Clip", "Mul", "Round", "Transpose", "Cast")
"""What integers go through on the way from the input to FP32, and from FP32 to the output."""


def layout_of(dtype: Dtype) -> Literal["NCHW", "NHWC"]:
    """Order of the axes that goes with a type."""
    return "NHWC" if dtype in HIGHEST else "NCHW"


def read_dtypes(path: Path, source: ValueInfoProto, target: ValueInfoProto) -> tuple[Dtype, Dtype]:
    """Types of input and output: floating-point ones in N x C x H x W, or the same integers in N x H x W x C for both.

    Raises:
        GraphError: others; `path` is for the message.
    """
    input_dtype, output_dtype = _read_dtype(path, source), _read_dtype(path, target)
    if layout_of(input_dtype) != layout_of(output_dtype):
        raise GraphError(
            f"{path}: {source.name!r} is of type {input_dtype} and {target.name!r} of type {output_dtype}; "
            "integers are needed for both, or for none"
        )
    for value in (source, target) if layout_of(input_dtype) == "NHWC" else ():
        dims = value.type.tensor_type.shape.dim
        if len(dims) != 4 or dims[3].dim_value not in (1, 3):
            shown = " x ".join(str(dim.dim_value or dim.dim_param or "?") for dim in dims) or "no axes"
            raise GraphError(
                f"{path}: {value.name!r} has shape {shown} of {input_dtype}; an image of integers is N x H x W x "
                "C with 1 or 3 channels"
            )
    return input_dtype, output_dtype


def _read_dtype(path: Path, value: ValueInfoProto) -> Dtype:
    import onnx

    code = value.type.tensor_type.elem_type
    if code not in DTYPES:
        name = onnx.TensorProto.DataType.Name(code) if code in onnx.TensorProto.DataType.values() else str(code)
        raise GraphError(
            f"{path}: {value.name!r} is of type {name}; input and output need float32 or float16 in [0, 1], or "
            "uint8 or uint16 in N x H x W x C"
        )
    return DTYPES[code]


def change_io_dtype(model: ModelProto, io_dtype: IoDtype) -> None:
    """Give a graph another I/O type, with the conversions inside it. What lies between those is left as it is.

    `fp16`: one cast for each, none where the graph computes in FP16 already. `uint8` and `uint16`: the input is cast
    to FP32, divided by 255 (65535) and transposed; the output is clamped to [0, 1], multiplied, rounded to the nearest
    (ties to even, as numpy's `rint`), transposed and cast. These are the operations that hosts do, in FP32 and in the
    same order, so the result is equal to a host's bit for bit. A value that is not finite cannot be seen any more in
    integers.

    Args:
        model: one image in, one out, both FP32, whatever it computes in; changed in place.
        io_dtype: what it shall take and give; `fp32` changes nothing but the note in the metadata.

    Raises:
        GraphError: it has other inputs or outputs than one FP32 image each.
    """
    from onnx import TensorProto

    source, target = find_input_output("the graph", model)
    for value in (source, target):
        kind = value.type.tensor_type
        rank = len(kind.shape.dim)
        if kind.elem_type != TensorProto.FLOAT or rank not in ((4,) if value is source else (0, 4)):  # 0: not stated
            name = TensorProto.DataType.Name(kind.elem_type)
            raise GraphError(
                f"{value.name!r} is {name} with {rank} axes; the I/O type is changed of graphs that "
                "take and give FP32 images; export it again"
            )
    if io_dtype == "fp16":
        _use_fp16(model, source, target)
    elif io_dtype != "fp32":
        _use_integers(model, source, target, io_dtype)
    _note_io_dtype(model, io_dtype)


def expose_nchw(model: ModelProto) -> None:
    """Make a graph of N x H x W x C images one of N x C x H x W, of the same types, for reading only; in place."""
    source, target = find_input_output("the graph", model)
    inner_input, inner_output = _detach(model, source, target, "nhwc")
    _permute(source, _TO_NCHW)
    _permute(target, _TO_NCHW)
    first = _node("Transpose", [source.name], inner_input, perm=_TO_NHWC)
    last = _node("Transpose", [inner_output], target.name, perm=_TO_NCHW)
    first.name = last.name = PROBE_NAME
    set_nodes(model.graph, [first, *model.graph.node, last])


def find_io_conversions(model: ModelProto) -> list[NodeProto]:
    """The nodes of a graph that `change_io_dtype` put between integers and FP32; none where its I/O type is a float.

    Raises:
        GraphError: not one image in and one out.
    """
    source, target = find_input_output("the graph", model)
    if DTYPES.get(source.type.tensor_type.elem_type) not in HIGHEST:
        return []
    readers = {name: node for node in reversed(model.graph.node) for name in node.input}
    makers = {name: node for node in model.graph.node for name in node.output}
    found = []
    for name, around, operators in ((source.name, readers, _BEFORE), (target.name, makers, reversed(_BEHIND))):
        node = around.get(name)
        for operator in operators:
            if node is None or node.op_type != operator:
                break
            found.append(node)
            node = around.get((node.output if around is readers else node.input)[0])
    return found


def _use_fp16(model: ModelProto, source: ValueInfoProto, target: ValueInfoProto) -> None:
    from onnx import TensorProto

    halves = _find_halves(model)
    source.type.tensor_type.elem_type = target.type.tensor_type.elem_type = TensorProto.FLOAT16
    inner_input, inner_output = _detach(model, source, target, "fp32")
    first = [_node("Cast", [source.name], inner_input, to=TensorProto.FLOAT)]
    last = [_node("Cast", [inner_output], target.name, to=TensorProto.FLOAT16)]
    # A graph that computes in FP16 has casts there already: they and the new ones would change no bit together.
    readers = [node for node in model.graph.node if inner_input in node.input]
    if all(_is_cast(node, TensorProto.FLOAT16) for node in readers):
        _remove_nodes(model, readers, {node.output[0]: source.name for node in readers})
        first = []
    (writer,) = (node for node in model.graph.node if inner_output in node.output)
    read_again = any(inner_output in node.input for node in model.graph.node)
    if _is_cast(writer, TensorProto.FLOAT) and writer.input[0] in halves and not read_again:
        _remove_nodes(model, [writer], {writer.input[0]: target.name})
        last = []
    set_nodes(model.graph, [*first, *model.graph.node, *last])


def _find_halves(model: ModelProto) -> set[str]:
    """Tensors between input and output that are FP16."""
    from onnx import TensorProto, shape_inference

    inferred = shape_inference.infer_shapes(model).graph
    return {value.name for value in inferred.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT16}


def _is_cast(node: NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and read_integer(node, "to", 0) == kind


def _remove_nodes(model: ModelProto, removed: list[NodeProto], renamed: dict[str, str]) -> None:
    for node in removed:
        model.graph.node.remove(node)
    rename_tensors(model.graph.node, renamed)


def _use_integers(model: ModelProto, source: ValueInfoProto, target: ValueInfoProto, io_dtype: IoDtype) -> None:
    import numpy as np
    from onnx import TensorProto, numpy_helper

    kind = {"uint8": TensorProto.UINT8, "uint16": TensorProto.UINT16}[io_dtype]
    highest = HIGHEST[ARRAY_DTYPE_OF[io_dtype]]
    inner_input, inner_output = _detach(model, source, target, "fp32")
    lr, sr = source.name, target.name
    for value in (source, target):
        value.type.tensor_type.elem_type = kind
        _permute(value, _TO_NHWC)
    constants = {"zero": 0.0, "one": 1.0, "highest": float(highest)}
    zero, one, top = (f"io.{name}" for name in constants)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(number, np.float32), f"io.{name}") for name, number in constants.items()
    )
    # TensorRT takes uint8 as input and output only, cast to and from at once: so all else is done in FP32.
    first = [
        _node("Cast", [lr], f"{lr}_cast", to=TensorProto.FLOAT),
        _node("Div", [f"{lr}_cast", top], f"{lr}_scaled"),
        _node("Transpose", [f"{lr}_scaled"], inner_input, perm=_TO_NCHW),
    ]
    last = [
        _node("Clip", [inner_output, zero, one], f"{sr}_clamped"),
        _node("Mul", [f"{sr}_clamped", top], f"{sr}_scaled"),
        _node("Round", [f"{sr}_scaled"], f"{sr}_rounded"),
        _node("Transpose", [f"{sr}_rounded"], f"{sr}_nhwc", perm=_TO_NHWC),
        _node("Cast", [f"{sr}_nhwc"], sr, to=kind),
    ]
    set_nodes(model.graph, [*first, *model.graph.node, *last])


def _detach(model: ModelProto, source: ValueInfoProto, target: ValueInfoProto, suffix: str) -> tuple[str, str]:
    """Part the nodes from input and output: new names for what the first ones read and the last one wrote."""
    nodes = model.graph.node
    taken = {name for node in nodes for name in (*node.input, *node.output)}
    inner = {value.name: take_name(f"{value.name}_{suffix}", taken) for value in (source, target)}
    rename_tensors(nodes, inner)
    return inner[source.name], inner[target.name]


def _node(operator: str, inputs: list[str], output: str, **attributes: int | tuple[int, ...]) -> NodeProto:
    from onnx import helper

    return helper.make_node(operator, inputs, [output], name=f"io.{output}", **attributes)  # type: ignore[arg-type]


def _permute(value: ValueInfoProto, order: tuple[int, ...]) -> None:
    shape = value.type.tensor_type.shape
    if not shape.dim:
        return
    dims = [shape.dim[axis] for axis in order]
    del shape.dim[:]
    shape.dim.extend(dims)


def _note_io_dtype(model: ModelProto, io_dtype: IoDtype) -> None:
    from onnx import helper

    entries = {entry.key: entry.value for entry in model.metadata_props}
    highest = HIGHEST.get(ARRAY_DTYPE_OF[io_dtype], 1)
    # Graphs that are shipped have this key; those made anew are compared with them, metadata and all.
    entries |= {"sr_deploy.ends": io_dtype, "sr_deploy.value_range": f"[0, {highest}]"}
    helper.set_model_props(model, dict(sorted(entries.items())))
