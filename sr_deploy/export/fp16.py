"""An FP32 graph into one that computes in FP16 (or BF16), with FP32 input and output.

TensorRT 11 has no FP16 switch: the graph says it. So every floating-point tensor becomes FP16, one cast stands behind
each input and one before each output. What steers a Resize (`roi`, `scales`) stays FP32, as the operator demands, and
so do nodes that are planned in FP32 (`fp16_plan`): casts stand at their borders, none between neighbors.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import GraphError, one_line
from sr_deploy.export.casts import Regions, insert_casts
from sr_deploy.export.float_format import BF16, FP16, FP16_MAX, FloatFormat, round_to_format
from sr_deploy.export.write import write_graph
from sr_deploy.graph.load import load_whole_model, name_of, opset_of

if TYPE_CHECKING:
    import onnx

__all__ = ["FP16_MAX", "convert_graph_to_format", "convert_graph_to_fp16", "convert_model_to_fp16", "round_to_fp16"]

_SUBGRAPHS = ("If", "Loop", "Scan")
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_FP16_SCALES = 19
"""Operator set from which on scales of quantizers may be FP16."""
_BF16_CONVOLUTIONS = 22
"""Operator set from which on convolutions may be BF16."""


def convert_graph_to_fp16(fp32_path: Path, fp16_path: Path, keep_fp32: Collection[str] = ()) -> None:
    """Write the FP16 twin of an FP32 graph.

    Args:
        fp32_path: an ONNX file with FP32 inputs and outputs, made here or elsewhere.
        fp16_path: the file to write; its inputs and outputs are FP32 too.
        keep_fp32: names of nodes that stay FP32; a node without a name goes by its first output.

    Raises:
        GraphError: the graph is damaged, holds what cannot be converted (control flow, other float types), or a weight
            does not fit FP16; the message names it.
        OutputError: the file cannot be written.
    """
    convert_graph_to_format(fp32_path, fp16_path, FP16, keep_fp32)


def convert_graph_to_format(
    fp32_path: Path, output_path: Path, float_format: FloatFormat, keep_fp32: Collection[str] = ()
) -> None:
    """As `convert_graph_to_fp16`, for either 16-bit type. A BF16 graph is of operator set 22 at least."""
    from sr_deploy.export.onnx_export import set_metadata

    model = load_whole_model(fp32_path)
    if float_format is BF16:
        model = _raise_opset(model, str(fp32_path))
    convert_model_to_format(model, str(fp32_path), float_format, keep_fp32)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    set_metadata(model, {**metadata, "sr_deploy.precision": float_format.precision})
    write_graph(model, output_path)


def convert_model_to_fp16(model: onnx.ModelProto, source: str, keep_fp32: Collection[str] = ()) -> None:
    """As `convert_graph_to_fp16`, in memory and in place; `source` names the graph in errors."""
    convert_model_to_format(model, source, FP16, keep_fp32)


def convert_model_to_format(
    model: onnx.ModelProto, source: str, float_format: FloatFormat, keep_fp32: Collection[str] = ()
) -> None:
    """As `convert_graph_to_format`, in memory and in place."""
    graph = model.graph
    _refuse_unknown(model, source, float_format)
    regions = Regions.find(model, keep_fp32, source)
    fp32 = regions.separate_constants(float_format.precision)
    for tensor in graph.initializer:
        if tensor.name not in fp32:
            _convert_tensor(tensor, tensor.name, source, float_format)
    _retype_listed_constants(graph)
    for node in graph.node:
        if not regions.holds(node):
            _convert_attributes(node, source, float_format)
    insert_casts(regions, float_format)
    del graph.value_info[:]  # it declares FP32; consumers infer it again


def round_to_fp16(weights: NDArray[np.float32], name: str, source: str) -> NDArray[np.generic]:
    """`float_format.round_to_format` for FP16."""
    return round_to_format(weights, name, source, FP16)


def _refuse_unknown(model: onnx.ModelProto, source: str, float_format: FloatFormat) -> None:
    import onnx

    name, opset = float_format.precision.upper(), opset_of(model)
    for node in model.graph.node:
        if node.op_type in _SUBGRAPHS:
            raise GraphError(
                f"{source}: node {node.name!r} is control flow ({node.op_type}), which {name} cannot convert"
            )
        if node.op_type in _QUANTIZERS and opset < _FP16_SCALES:
            raise GraphError(
                f"{source}: node {node.name!r} quantizes ({node.op_type}) in operator set {opset}, where scales are "
                f"FP32; export the quantized graph with operator set {_FP16_SCALES} or later"
            )
    floats = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    types = [(tensor.name, tensor.data_type) for tensor in model.graph.initializer]
    types += [(value.name, value.type.tensor_type.elem_type) for value in (*model.graph.input, *model.graph.output)]
    for tensor_name, kind in types:
        if kind in floats:
            seen = onnx.TensorProto.DataType.Name(kind)
            raise GraphError(f"{source}: tensor {tensor_name!r} is {seen}; only FP32 graphs become {name}")


def _raise_opset(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    import onnx
    from onnx import version_converter

    if opset_of(model) >= _BF16_CONVOLUTIONS:
        return model
    try:
        return version_converter.convert_version(model, _BF16_CONVOLUTIONS)
    except (RuntimeError, onnx.checker.ValidationError) as error:
        reason = one_line(error)
        raise GraphError(
            f"{source} does not become operator set {_BF16_CONVOLUTIONS}, as BF16 needs: {reason}"
        ) from error


def _convert_tensor(tensor: onnx.TensorProto, name: str, source: str, float_format: FloatFormat) -> None:
    import onnx

    if tensor.data_type != onnx.TensorProto.FLOAT:
        return
    rounded = round_to_format(onnx.numpy_helper.to_array(tensor), name, source, float_format)
    tensor_name = tensor.name
    tensor.CopyFrom(onnx.numpy_helper.from_array(rounded, tensor_name))


def _retype_listed_constants(graph: onnx.GraphProto) -> None:
    """Old graphs list their constants among the inputs too: those entries follow the constants' types."""
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in graph.input:
        if value.name in kinds:
            value.type.tensor_type.elem_type = kinds[value.name]


def _convert_attributes(node: onnx.NodeProto, source: str, float_format: FloatFormat) -> None:
    import onnx

    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            _convert_tensor(attribute.t, f"{name_of(node)}.{attribute.name}", source, float_format)
        elif node.op_type == "Constant" and attribute.type in (onnx.AttributeProto.FLOAT, onnx.AttributeProto.FLOATS):
            many = attribute.type == onnx.AttributeProto.FLOATS
            values = np.array(attribute.floats if many else attribute.f, np.float32)
            rounded = round_to_format(values, f"{name_of(node)}.{attribute.name}", source, float_format)
            attribute.CopyFrom(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(rounded)))
        elif attribute.name in ("to", "dtype") and attribute.i == onnx.TensorProto.FLOAT:
            attribute.i = float_format.onnx_type  # a Cast or a generator of FP32 inside; `i` is 0 for other kinds
