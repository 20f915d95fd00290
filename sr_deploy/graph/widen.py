"""A 16-bit graph with all its numbers in FP32: what it would give if nothing were rounded on the way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sr_deploy.graph.load import load_whole_model

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

_FLOAT = 1
FLOAT16_TYPES = (10, 16)
"""FP16 and BF16, by ONNX's element type."""


def read_widened(path: Path) -> ModelProto:
    """Read a graph and turn every FP16 and BF16 tensor, inputs and outputs too, into FP32; the file is left as it is.

    What our graphs say of themselves in their metadata is left out, since it no longer holds.

    Raises:
        InputError: no such file.
        GraphError: no ONNX file, a damaged one, or weights in a file beside it that is not there.
    """
    model = load_whole_model(path)
    del model.metadata_props[:]
    graph = model.graph
    for tensor in graph.initializer:
        widen_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in FLOAT16_TYPES:
            value.type.tensor_type.elem_type = _FLOAT
    for node in graph.node:
        widen_attributes(node)
    return model


def widen_tensor(tensor: TensorProto) -> None:
    """Turn a tensor of 16-bit floats into FP32, in place; any other stays."""
    import onnx

    if tensor.data_type in FLOAT16_TYPES:
        values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def widen_attributes(node: NodeProto) -> None:
    """The same for the tensors in a node's attributes, and for the type that it casts to or makes."""
    for attribute in node.attribute:
        if attribute.HasField("t"):
            widen_tensor(attribute.t)
        elif attribute.name in ("to", "dtype") and attribute.i in FLOAT16_TYPES:
            attribute.i = _FLOAT
