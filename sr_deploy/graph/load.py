"""ONNX files in memory."""

from __future__ import annotations

import contextlib
import copy
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.errors import GraphError, SrDeployError
from sr_deploy.files import require_file
from sr_deploy.graph.attention import write_out_attention
from sr_deploy.graph.check import MAX_NODES, OWN_DOMAINS, check_model, is_operator
from sr_deploy.graph.external import check_external
from sr_deploy.graph.order import walk_nodes
from sr_deploy.graph.wire import check_wire
from sr_deploy.legible import shorten
from sr_deploy.untrusted import open_regular

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

_SMALL_TENSOR = 1024
"""Elements up to which a constant keeps its values: shapes, scales and pads are small, weights are not."""
_MAX_BYTES = 2**31 - 1  # of a protobuf message
_MAX_SHOWN = 200
_VALUE_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "uint64_data", "double_data", "external_data")


def load_model(path: Path) -> ModelProto:
    """Read an ONNX file and see to it that it is whole (`check_model`), without Attention (`attention`).

    Weights in files beside it are not read.

    Raises:
        InputError: no such file.
        GraphError: no ONNX file, a damaged one, or one that is not what it says.
        UnsafePathError: it would read weights from outside its folder.
    """
    require_file(path, "an ONNX file")
    with holding_errors(path):
        content = _read_content(path)
        try:
            check_wire(content)
            model = _parse(content)
            check_model(model)
        except ValueError as error:
            raise GraphError(
                f"{path} is not an ONNX file, or a damaged one ({error}); export or download it again"
            ) from error
        check_external(path, model)
        try:
            write_out_attention(model, MAX_NODES)
        except ValueError as error:
            raise GraphError(f"{path}: {error}") from error
    return model


def _read_content(path: Path) -> bytes:
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > _MAX_BYTES:
            raise GraphError(
                f"{path} has {size} bytes, and no ONNX file has more than 2 GiB: large weights lie beside it"
            )
        return stream.read(size)


def _parse(content: bytes) -> ModelProto:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model: ModelProto = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise ValueError(str(error)) from error
    return model


@contextlib.contextmanager
def holding_errors(path: Path | str) -> Iterator[None]:
    """Turn what libraries raise while they work on a graph into an error of one line that names the file.

    Raises:
        GraphError: something was raised that is no error of ours.
    """
    try:
        yield
    except (SrDeployError, MemoryError):
        raise
    except Exception as error:  # whatever a hostile file makes of them
        what = shorten(" ".join(f"{type(error).__name__}: {error}".split()), _MAX_SHOWN)
        raise GraphError(f"{path} cannot be read as a graph ({what}); export or download it again") from error


def load_whole_model(path: Path) -> ModelProto:
    """Read an ONNX file with its weights, from files beside it too.

    Raises:
        InputError: no such file.
        GraphError: no ONNX file, a damaged one, or a file beside it is missing.
    """
    import onnx

    model = load_model(path)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise GraphError(f"{path}: its weights lie in a file that cannot be read ({error})") from error
    return model


def read_without_attention(path: Path) -> bytes | None:
    """A graph with each Attention written out, for what does not take any; None where the file has none.

    Raises:
        InputError: no such file.
        GraphError: no ONNX file, a damaged one, or an Attention that is not taken (`attention`).
    """
    with holding_errors(path):
        found = _parse(_read_content(path))
        if not any(
            is_operator(node, "Attention") for part in (found.graph, *found.functions) for node in walk_nodes(part)
        ):
            return None
    content: bytes = load_whole_model(path).SerializeToString()
    return content


def find_input_output(path: Path | str, model: ModelProto) -> tuple[ValueInfoProto, ValueInfoProto]:
    """The one input and the one output; `path` is for messages.

    Raises:
        GraphError: there are others.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    outputs = list(model.graph.output)
    for kind, values in (("input", inputs), ("output", outputs)):
        if len(values) != 1:
            names = ", ".join(value.name for value in values) or "none"
            raise GraphError(f"{path} has {len(values)} {kind}s ({names}); exactly one image {kind} is needed")
    return inputs[0], outputs[0]


def strip_weights(model: ModelProto) -> ModelProto:
    """Drop the values of large constants, in place; shapes and types stay, and shape inference needs no more."""
    from onnx import TensorProto

    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) > _SMALL_TENSOR:
            for name in _VALUE_FIELDS:
                tensor.ClearField(name)
            tensor.data_location = TensorProto.DEFAULT
    return model


def infer_types(model: ModelProto, *, stated: bool = True) -> dict[str, int]:
    """ONNX's number for the type of every tensor by name, as far as it can be inferred; the model is left as it is.

    Args:
        model: with its weights or without.
        stated: whether what the file says of tensors between nodes (`value_info`) counts; False: only what follows
            from its input and output and its constants.
    """
    from onnx import shape_inference

    probe = strip_weights(copy.deepcopy(model))
    if not stated:
        del probe.graph.value_info[:]
    graph = shape_inference.infer_shapes(probe).graph
    types = {tensor.name: int(tensor.data_type) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        types[value.name] = int(value.type.tensor_type.elem_type)
    return types


def name_of(node: NodeProto) -> str:
    """What a node is called in plans, records and messages: its name, or that of its first output."""
    return str(node.name or node.output[0])


def opset_of(model: ModelProto) -> int:
    """Version of ONNX's own operator set that the model uses; 0 if it uses none."""
    return next((int(entry.version) for entry in model.opset_import if entry.domain in OWN_DOMAINS), 0)


def read_integers(node: NodeProto, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """An attribute that is a list of integers."""
    return next((tuple(attribute.ints) for attribute in node.attribute if attribute.name == name), default)


def read_integer(node: NodeProto, name: str, default: int) -> int:
    """An attribute that is an integer."""
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def read_text(node: NodeProto, name: str, default: str) -> str:
    """An attribute that is text."""
    return next((attribute.s.decode() for attribute in node.attribute if attribute.name == name), default)
