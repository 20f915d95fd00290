"""What each layer of a graph computes in, against what the manifest says and what the network asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sr_deploy.bundle import Bundle, Check, GraphRecord, Int8Record, utc_now
from sr_deploy.engine.precision import find_unplanned_nodes, list_work, share_multiply_adds
from sr_deploy.errors import BackendError, SrDeployError
from sr_deploy.export.casts import list_place_layers
from sr_deploy.export.fp16_plan import list_unneeded
from sr_deploy.graph.load import load_model
from sr_deploy.graph.read import METADATA_PREFIX, read_graph
from sr_deploy.model import Model
from sr_deploy.verification.audit import cut_findings
from sr_deploy.verification.origin import make_again, read_search

if TYPE_CHECKING:
    from sr_deploy.export.int8.search_report import Int8Report
    from sr_deploy.graph.cost import LayerCost

_SHARES_ALIKE = 0.005
"""Shares that are counted on pictures of other sizes differ by less."""


def check_graph_precision(model: Model, bundle: Bundle, graph: GraphRecord) -> Check:
    """Whether every layer computes in the graph's precision, but for those that are planned otherwise with a reason.

    Shares are counted in the graph, and those that the manifest and the report of its search state are held against
    them. A graph that cannot be read is a finding.
    """
    what, findings, not_checked = f"declared: what each layer of the {graph.precision} graph computes in", [], ""
    try:
        work = list_work(bundle.path / graph.file)
        what = f"declared: {_describe_shares(work, graph)}"
        findings = list(_list_findings(model, bundle, graph, work))
    except BackendError as error:
        not_checked = str(error)
    except SrDeployError as error:
        findings = [str(error)]
    return Check(
        kind="precision",
        file=graph.file,
        sha256=graph.sha256,
        what=what,
        findings=cut_findings(findings),
        not_checked=not_checked,
        checked_at=utc_now(),
    )


def _describe_shares(work: Sequence[LayerCost], graph: GraphRecord) -> str:
    declared = {layer.name: layer.precision for layer in work if layer.precision is not None}
    shares = share_multiply_adds(declared, list(work))
    said = " and ".join(f"{100 * share:.1f} % in {precision}" for precision, share in shares.items())
    planned = [layer for layer in work if layer.name in graph.planned_fp32 and layer.precision == "fp32"]
    more = ""
    if graph.planned_fp32:
        share = 100 * sum(layer.share for layer in planned)
        more = f"; {len(graph.planned_fp32)} nodes are planned in FP32, with {share:.1f} % of them"
    return f"of the multiply-adds, {said or 'none'}{more}"


def _list_findings(model: Model, bundle: Bundle, graph: GraphRecord, work: Sequence[LayerCost]) -> Iterator[str]:
    path = bundle.path / graph.file
    stated = read_graph(path).metadata.get(f"{METADATA_PREFIX}precision")
    if stated != graph.precision:
        yield f"its metadata say {stated}, and the manifest {graph.precision}"
    yield from find_unplanned_nodes(path, graph)
    report, search = read_search(bundle, graph.precision), bundle.manifest.searches.get(graph.precision)
    if graph.precision in ("fp32", "bf16"):
        places = list_place_layers(load_model(bundle.graph("fp32"))) if graph.planned_fp32 else []
        yield from (
            f"{name} is planned in FP32, which no {graph.precision} graph asks for"
            for name in graph.planned_fp32
            if graph.precision == "fp32" or name not in places
        )
    elif report is None or report.options.rest == "fp16":
        yield from _judge_plan(model, bundle, graph)
    if report is not None and search is not None:
        yield from _judge_search(graph, search, report, work)


def _judge_plan(model: Model, bundle: Bundle, graph: GraphRecord) -> Iterator[str]:
    if graph.planned_fp32:
        again = make_again(model, bundle, io_dtype="fp32")
        yield from list_unneeded(again, graph.planned_fp32, model.channels, model.scale)


def _judge_search(
    graph: GraphRecord, record: Int8Record, report: Int8Report, work: Sequence[LayerCost]
) -> Iterator[str]:
    """What manifest and the report state of the search against each other and against the graph."""
    name, file = graph.precision, record.report.file
    shares = {layer.name: layer.share for layer in work}
    share = sum(layer.share for layer in work if layer.precision == name)
    stated: dict[str, float | None] = {
        f"share of the manifest's {name}": record.share,
        f"share of {file}": report.share,
    }
    if name == "int8":
        stated = {"int8_share of the graph's record": graph.int8_share, **stated}
    for where, said in stated.items():
        if said is None or not abs(said - share) <= _SHARES_ALIKE:
            yield f"{where} is {said}, and {share:.4f} of the multiply-adds are in {name}"
    for layer in report.layers:
        if layer.share is not None and not abs(layer.share - shares.get(layer.name, 0)) <= _SHARES_ALIKE:
            yield f"{file} gives {layer.name} a share of {layer.share}, and it has {shares.get(layer.name, 0):.4f}"
    for field in ("drop_db", "upper_db", "visible", "max_abs", "psnr_fp32_db", "passed"):
        if getattr(record, field) != getattr(report, field):
            yield f"{field} is {getattr(record, field)} in the manifest and {getattr(report, field)} in {file}"
    for field in ("max_drop_db", "max_pixel_error"):
        if getattr(record, field) != getattr(report.options, field):
            yield f"{field} is {getattr(record, field)} in the manifest and {getattr(report.options, field)} in {file}"
    # What an older sr-deploy made was held to the mean and to the worst sample.
    lost = report.drop_db if report.upper_db is None else report.upper_db
    seen = report.max_abs if report.visible is None else report.visible
    within = lost <= record.max_drop_db and seen <= record.max_pixel_error
    if report.passed != within or report.forced == report.passed:
        yield f"{file} says that its budget was {'met' if report.passed else 'missed'}, and its figures do not"
    left_out = sum(layer.precision == "float" and layer.share is not None for layer in report.layers)
    if not any(abs(point.share - report.share) < 1e-9 and point.left_out == left_out for point in report.curve):
        yield f"the curve of {file} has no point with {report.share:.4f} in {name} and {left_out} layer(s) left out"
