"""An FP16 graph with all its numbers in FP32: what it would give if nothing were rounded on the way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sr_deploy.graph.load import load_whole_model

if TYPE_CHECKING:
    from onnx import AttributeProto, ModelProto, TensorProto


def read_widened(path: Path) -> ModelProto:
    """Read a graph and turn every FP16 tensor, inputs and outputs too, into FP32; the file is left as it is.

    What our graphs say of themselves in their metadata is left out, since it no longer holds.

    Raises:
        InputError: no such file.
        GraphError: no ONNX file, a damaged one, or weights in a file beside it that is not there.
    """
    import onnx

    model = load_whole_model(path)
    del model.metadata_props[:]
    graph = model.graph
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            _widen_attribute(attribute)
    return model


def _widen_tensor(tensor: TensorProto) -> None:
    import onnx

    if tensor.data_type == onnx.TensorProto.FLOAT16:
        values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def _widen_attribute(attribute: AttributeProto) -> None:
    import onnx

    if attribute.type == onnx.AttributeProto.TENSOR:
        _widen_tensor(attribute.t)
    elif attribute.name in ("to", "dtype") and attribute.i == onnx.TensorProto.FLOAT16:
        attribute.i = onnx.TensorProto.FLOAT
