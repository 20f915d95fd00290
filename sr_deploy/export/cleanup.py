"""What remains to be done on a graph after PyTorch's exporter: take its notes out and give it plain, stable names."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sr_deploy.graph.change import rename_tensors, sort_constants

if TYPE_CHECKING:
    import onnx

_FREE_AXES = ("n", "", "h", "w")


def clean_graph(model: onnx.ModelProto, scale: int) -> None:
    """Strip notes, name tensors and nodes by what they are, name the free axes, sort the constants.

    The exporter's notes hold source paths and stack traces, and its names hold counters of the process: with both gone
    the same weights give the same bytes on any machine.

    Args:
        model: changed in place.
        scale: output pixels per input pixel along each side.
    """
    _strip_notes(model)
    _rename_tensors(model.graph)
    _name_axes(model.graph, scale)
    # Shapes between input and output are inferred by every consumer; stored ones carry the tracer's symbols.
    del model.graph.value_info[:]
    model.producer_name = "sr-deploy"
    model.producer_version = importlib.metadata.version("sr-deploy")
    model.graph.name = "generator"


def _strip_notes(model: onnx.ModelProto) -> None:
    graph = model.graph
    model.doc_string = ""
    graph.doc_string = ""
    model.domain = ""
    del model.metadata_props[:]
    del graph.metadata_props[:]
    annotated: Iterable[onnx.NodeProto | onnx.ValueInfoProto | onnx.TensorProto | onnx.FunctionProto] = (
        *graph.node,
        *graph.initializer,
        *graph.input,
        *graph.output,
        *model.functions,
        *(node for function in model.functions for node in function.node),
    )
    for item in annotated:
        item.doc_string = ""
        del item.metadata_props[:]


def _rename_tensors(graph: onnx.GraphProto) -> None:
    """Parameters keep the checkpoint's names; every other tensor is named by the node that makes or takes it."""
    io_names = {value.name for value in (*graph.input, *graph.output)}
    names: dict[str, str] = {}
    counts: dict[str, int] = {}
    constants = {tensor.name for tensor in graph.initializer if "." not in tensor.name}
    for node in graph.node:
        kind = node.op_type.lower()
        number = counts[kind] = counts.get(kind, -1) + 1
        node.name = f"{kind}_{number}"
        for position, name in enumerate(node.input):
            if name in constants and name not in names:
                names[name] = f"{node.name}.constant_{position}"
        for position, name in enumerate(node.output):
            if name not in io_names:
                names[name] = node.name if position == 0 else f"{node.name}.{position}"
    rename_tensors(graph.node, names)
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    sort_constants(graph)


def _name_axes(graph: onnx.GraphProto, scale: int) -> None:
    factor = "" if scale == 1 else f"{scale}*"
    for value, prefix in ((graph.input[0], ""), (graph.output[0], factor)):
        for axis, dimension in zip(_FREE_AXES, value.type.tensor_type.shape.dim, strict=True):
            if axis:
                dimension.dim_param = axis if axis == "n" else f"{prefix}{axis}"
