"""A rewritten graph in a file's place."""

from __future__ import annotations

from pathlib import Path

from sr_deploy.export.write import write_graph
from sr_deploy.graph.load import load_model
from sr_deploy.graph.rewrite import RewriteReport, rewrite_model


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
