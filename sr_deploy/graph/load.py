"""ONNX files in memory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.errors import GraphError
from sr_deploy.files import require_file
from sr_deploy.graph.external import check_external

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

_SMALL_TENSOR = 1024
"""Elements up to which a constant keeps its values: shapes, scales and pads are small, weights are not."""
_VALUE_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "uint64_data", "double_data", "external_data")


def load_model(path: Path) -> ModelProto:
    """Read an ONNX file; weights in files beside it are not read, but it is seen to that they would lie there.

    Raises:
        InputError: no such file.
        GraphError: no ONNX file, or a damaged one.
        UnsafePathError: it would read weights from outside its folder.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    require_file(path, "an ONNX file")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise GraphError(f"{path} is no ONNX file, or a damaged one ({error}); export or download it again") from error
    if not model.graph.node or not model.opset_import:
        raise GraphError(f"{path} is no ONNX file, or a damaged one (it has no nodes); export or download it again")
    check_external(path, model)
    return model


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


def find_ends(path: Path | str, model: ModelProto) -> tuple[ValueInfoProto, ValueInfoProto]:
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


def opset_of(model: ModelProto) -> int:
    """Version of ONNX's own operator set that the model uses; 0 if it uses none."""
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def read_integers(node: NodeProto, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """An attribute that is a list of whole numbers."""
    return next((tuple(attribute.ints) for attribute in node.attribute if attribute.name == name), default)


def read_integer(node: NodeProto, name: str, default: int) -> int:
    """An attribute that is a whole number."""
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def read_text(node: NodeProto, name: str, default: str) -> str:
    """An attribute that is text."""
    return next((attribute.s.decode() for attribute in node.attribute if attribute.name == name), default)
