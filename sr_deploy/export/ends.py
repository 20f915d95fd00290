"""Other types at the ends of graph files."""

from __future__ import annotations

from pathlib import Path

from sr_deploy.export.write import write_graph
from sr_deploy.graph.ends import Ends, change_ends
from sr_deploy.graph.load import load_model


def change_graph_ends(path: Path, ends: Ends) -> None:
    """Give the graph in a file other ends, as `graph.ends.change_ends` says; `fp32` leaves the file as it is.

    Raises:
        GraphError: a damaged graph, or one without FP32 images at both ends.
        OutputError: the file cannot be written; the old one is left.
    """
    if ends != "fp32":
        model = load_model(path)
        change_ends(model, ends)
        write_graph(model, path)
