"""Checked graphs into files, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.errors import GraphError, first_line
from sr_deploy.files import replacing_file

if TYPE_CHECKING:
    import onnx


def write_graph(model: onnx.ModelProto, path: Path) -> None:
    """Check a graph with ONNX's full checker and write it.

    The bytes depend on the graph alone.

    Raises:
        GraphError: the checker refuses the graph.
        OutputError: the file cannot be written; nothing is left behind.
    """
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"the graph for {path.name} does not pass ONNX's checker: {first_line(error)}") from error
    with replacing_file(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
