"""An FP32 graph into one that computes in FP16, with FP32 at both ends.

TensorRT 11 has no FP16 switch: the graph says it. So every floating-point tensor becomes FP16, one cast stands behind
each input and one before each output. What steers a Resize (`roi`, `scales`) stays FP32, as the operator demands.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import GraphError
from sr_deploy.export.write import write_graph
from sr_deploy.graph.load import load_model

if TYPE_CHECKING:
    import onnx

FP16_MAX = float(np.finfo(np.float16).max)
"""65504, the greatest finite number."""

MAX_RELATIVE_ERROR = 2.0**-9
"""Error of a tensor after rounding, as a share of its norm, above which FP16 is refused.

Rounding of normal numbers costs at most 2^-11; more means that the tensor as a whole has gone subnormal (below 2^-14).
Single small weights beside greater ones lose nothing that counts.
"""

# Operators whose inputs of these positions are always FP32, whatever the data's type.
_FP32_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
_SUBGRAPHS = ("If", "Loop", "Scan")


def convert_graph_to_fp16(fp32_path: Path, fp16_path: Path) -> None:
    """Write the FP16 twin of an FP32 graph.

    Args:
        fp32_path: an ONNX file with FP32 inputs and outputs, made here or elsewhere.
        fp16_path: the file to write; its inputs and outputs are FP32 too.

    Raises:
        GraphError: the graph is damaged, holds what cannot be converted (control flow, quantisation, other float
            types), or a weight does not fit FP16; the message names it.
        OutputError: the file cannot be written.
    """
    import onnx

    from sr_deploy.export.onnx_export import set_metadata

    model = load_model(fp32_path)
    onnx.load_external_data_for_model(model, str(fp32_path.parent))
    convert_model_to_fp16(model, str(fp32_path))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    set_metadata(model, {**metadata, "sr_deploy.precision": "fp16"})
    write_graph(model, fp16_path)


def convert_model_to_fp16(model: onnx.ModelProto, source: str) -> None:
    """As `convert_graph_to_fp16`, in memory and in place; `source` names the graph in errors."""
    graph = model.graph
    _refuse_unknown(model, source)
    _separate_fp32_constants(graph)
    steering = {name for name in _fp32_input_names(graph) if name}
    for tensor in graph.initializer:
        if tensor.name not in steering:
            _halve_tensor(tensor, tensor.name, source)
    _retype_listed_constants(graph)
    for node in graph.node:
        if not steering.intersection(node.output):
            _halve_attributes(node, source)
    _cast_ends(graph)
    del graph.value_info[:]  # it speaks of FP32; consumers infer it anew


def round_to_fp16(weights: NDArray[np.float32], name: str, source: str) -> NDArray[np.float16]:
    """Round to the nearest FP16 numbers.

    Args:
        weights: any shape.
        name: of the tensor, for errors.
        source: of the graph, for errors.

    Raises:
        GraphError: a value is no finite number or beyond 65504, or the tensor as a whole is too small for FP16.
    """
    greatest = float(np.max(np.abs(weights), initial=0.0))
    if not np.isfinite(greatest):
        raise GraphError(
            f"{source}: tensor {name!r} holds NaN or infinity; the weights are damaged, train or fetch anew"
        )
    if greatest > FP16_MAX:
        raise GraphError(
            f"{source}: tensor {name!r} reaches {greatest:g}, beyond FP16's {FP16_MAX:g}; export without --fp16"
        )
    rounded = weights.astype(np.float16)
    norm = float(np.linalg.norm(weights.astype(np.float64)))
    error = float(np.linalg.norm(rounded.astype(np.float64) - weights.astype(np.float64)))
    if error > MAX_RELATIVE_ERROR * norm:
        raise GraphError(
            f"{source}: tensor {name!r} is too small for FP16 (greatest value {greatest:.3g}, rounding would change it "
            f"by {100 * error / norm:.2g} %); export without --fp16"
        )
    return rounded


def _refuse_unknown(model: onnx.ModelProto, source: str) -> None:
    import onnx

    for node in model.graph.node:
        if node.op_type in _SUBGRAPHS:
            raise GraphError(
                f"{source}: node {node.name!r} is control flow ({node.op_type}), which FP16 cannot convert"
            )
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            raise GraphError(f"{source}: node {node.name!r} quantises ({node.op_type}); give the FP32 graph")
    floats = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    types = [(tensor.name, tensor.data_type) for tensor in model.graph.initializer]
    types += [(value.name, value.type.tensor_type.elem_type) for value in (*model.graph.input, *model.graph.output)]
    for name, kind in types:
        if kind in floats:
            seen = onnx.TensorProto.DataType.Name(kind)
            raise GraphError(f"{source}: tensor {name!r} is {seen}; only FP32 graphs become FP16")


def _fp32_input_names(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        for position in _FP32_INPUTS.get(node.op_type, ()):
            if position < len(node.input):
                yield node.input[position]


def _separate_fp32_constants(graph: onnx.GraphProto) -> None:
    """Give a constant that steers a Resize and also feeds something else a copy of its own for the latter."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    steering = set(_fp32_input_names(graph)) & tensors.keys()
    copied: set[str] = set()
    for node in graph.node:
        fixed = _FP32_INPUTS.get(node.op_type, ())
        for position, name in enumerate(node.input):
            if name in steering and position not in fixed:
                node.input[position] = f"{name}.fp16"
                if name not in copied:
                    copied.add(name)
                    tensor = graph.initializer.add()
                    tensor.CopyFrom(tensors[name])
                    tensor.name = f"{name}.fp16"


def _halve_tensor(tensor: onnx.TensorProto, name: str, source: str) -> None:
    import onnx

    if tensor.data_type != onnx.TensorProto.FLOAT:
        return
    rounded = round_to_fp16(onnx.numpy_helper.to_array(tensor), name, source)
    tensor_name = tensor.name
    tensor.CopyFrom(onnx.numpy_helper.from_array(rounded, tensor_name))


def _retype_listed_constants(graph: onnx.GraphProto) -> None:
    """Old graphs list their constants among the inputs too: those entries follow the constants' types."""
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in graph.input:
        if value.name in kinds:
            value.type.tensor_type.elem_type = kinds[value.name]


def _halve_attributes(node: onnx.NodeProto, source: str) -> None:
    import onnx

    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            _halve_tensor(attribute.t, f"{node.name or node.output[0]}.{attribute.name}", source)
        elif node.op_type == "Constant" and attribute.type in (onnx.AttributeProto.FLOAT, onnx.AttributeProto.FLOATS):
            many = attribute.type == onnx.AttributeProto.FLOATS
            values = np.array(attribute.floats if many else attribute.f, np.float32)
            rounded = round_to_fp16(values, f"{node.name or node.output[0]}.{attribute.name}", source)
            attribute.CopyFrom(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(rounded)))
        elif attribute.name in ("to", "dtype") and attribute.i == onnx.TensorProto.FLOAT:
            attribute.i = onnx.TensorProto.FLOAT16  # a Cast or a generator of FP32 inside; `i` is 0 for other kinds


def _cast_ends(graph: onnx.GraphProto) -> None:
    import onnx

    constants = {tensor.name for tensor in graph.initializer}
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    inputs = [value for value in graph.input if value.name not in constants and _is_float(value)]
    outputs = [value for value in graph.output if _is_float(value)]
    inside = {value.name: _free_name(f"{value.name}_fp16", taken) for value in (*inputs, *outputs)}
    for node in graph.node:
        node.input[:] = [inside.get(name, name) for name in node.input]
        node.output[:] = [inside.get(name, name) for name in node.output]
    first = [_cast(value.name, inside[value.name], onnx.TensorProto.FLOAT16) for value in inputs]
    last = [_cast(inside[value.name], value.name, onnx.TensorProto.FLOAT) for value in outputs]
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend([*first, *body, *last])


def _is_float(value: onnx.ValueInfoProto) -> bool:
    import onnx

    return bool(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)


def _free_name(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    import onnx

    name = "cast_to_fp16" if kind == onnx.TensorProto.FLOAT16 else "cast_to_fp32"
    return onnx.helper.make_node("Cast", [source], [target], name=f"{name}.{source}", to=kind)
