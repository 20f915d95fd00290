"""Writes ONNX graphs to files: checked, and atomically."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.errors import GraphError, first_line
from sr_deploy.files import replacing_file
from sr_deploy.graph.io_dtype import IoDtype, change_io_dtype
from sr_deploy.graph.load import load_model
from sr_deploy.graph.rewrite import RewriteReport, rewrite_model

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


def rewrite_graph_file(path: Path) -> RewriteReport:
    """Apply to the graph in a file every rewrite that is exact and pays, as `graph.rewrite.DEFAULT` has them.

    Raises:
        GraphError: a damaged graph, or one of an opset before 11.
        OutputError: the file cannot be written; the old one is left.
    """
    model = load_model(path)
    report = rewrite_model(model)
    if report.applied:
        write_graph(model, path)
    return report


def change_file_io_dtype(path: Path, io_dtype: IoDtype) -> None:
    """Give the graph in a file another I/O type, as `graph.io_dtype.change_io_dtype` says; `fp32` leaves it as it is.

    Raises:
        GraphError: a damaged graph, or one whose input and output are not FP32 images.
        OutputError: the file cannot be written; the old one is left.
    """
    if io_dtype != "fp32":
        model = load_model(path)
        change_io_dtype(model, io_dtype)
        write_graph(model, path)
