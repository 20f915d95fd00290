"""The precision of a bundle's graphs, read from the files. No torch here.

Hashes are checked whenever a bundle is opened; here is what a file says and holds, so that a wrong one is found too
where its hash was entered as if it were right.
"""

from __future__ import annotations

from sr_deploy.bundle import Bundle, Check, GraphRecord, utc_now
from sr_deploy.engine.precision import find_unplanned_nodes
from sr_deploy.errors import GraphError
from sr_deploy.graph.read import read_graph


def check_graph_precision(bundle: Bundle, graph: GraphRecord) -> Check:
    """Whether every layer of a graph computes in what the manifest says, but for those planned otherwise."""
    path = bundle.path / graph.file
    try:
        findings = find_unplanned_nodes(path, graph)
        stated = read_graph(path).metadata.get("sr_deploy.precision")
        if stated not in (None, graph.precision):
            findings.append(f"its metadata say {stated}")
    except GraphError as error:
        findings = [str(error)]
    planned = f", {len(graph.planned_fp32)} planned in FP32" if graph.planned_fp32 else ""
    return Check(
        kind="precision",
        file=graph.file,
        sha256=graph.sha256,
        what=f"declared: every layer that multiplies and adds computes in {graph.precision}{planned}",
        findings=tuple(findings),
        checked_at=utc_now(),
    )
