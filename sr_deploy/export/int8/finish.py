"""The end of a search: the graph's file, checked against the budget as it stands there, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sr_deploy.export.int8.execute import open_graph
from sr_deploy.export.int8.insert import QuantisedConv
from sr_deploy.export.int8.options import Int8Options
from sr_deploy.export.int8.placement import Placement
from sr_deploy.export.int8.quality import Judge, Loss
from sr_deploy.export.int8.report import LayerReport
from sr_deploy.export.int8.search import Point, SearchResult, is_within
from sr_deploy.export.int8.work import Layers, Work
from sr_deploy.graph.load import load_model

if TYPE_CHECKING:
    import onnx


def write_first_that_fits(work: Work, result: SearchResult, layers: Layers, judge: Judge) -> tuple[Point, Loss] | None:
    """Write the chosen point's graph, or the next one's whose file is within the budget.

    The search ran with FP32 between the INT8 layers; the file may have FP16 there, which counts too.

    Returns:
        What was written and what it loses; None where nothing fits, and then there is no file.
    """
    if result.chosen is None:
        return None
    for point in result.points[result.points.index(result.chosen) :]:
        loss = write_point(work, point, layers, judge)
        if is_within(loss, work.options):
            return point, loss
        work.path.unlink()
    return None


def write_point(work: Work, point: Point, layers: Layers, judge: Judge) -> Loss:
    """Write the graph of one point, and measure the file."""
    from sr_deploy.export.fp16 import convert_model_to_fp16
    from sr_deploy.export.onnx_export import set_metadata
    from sr_deploy.export.write import write_graph

    model = work.quantise({name: layer for name, layer in layers.items() if name not in point.kept})
    if work.options.rest == "fp16":
        convert_model_to_fp16(model, str(work.path), work.keep_fp32)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    set_metadata(model, {**metadata, "sr_deploy.precision": "int8"})
    write_graph(model, work.path)
    return judge.judge(open_graph(load_model(work.path), work.engine))


def describe_layers(
    model: onnx.ModelProto, placement: Placement, point: Point, errors: Mapping[str, float], layers: Layers
) -> tuple[LayerReport, ...]:
    """Every convolution: its precision, why, what it costs, and how it is quantised."""
    candidates = {candidate.name: candidate for candidate in placement.candidates}
    described = []
    for node in model.graph.node:
        if node.name in placement.kept:
            described.append(LayerReport(name=node.name, precision="float", why=placement.kept[node.name]))
        elif node.name in candidates:
            share, error = candidates[node.name].share, errors[node.name]
            if node.name in point.kept:
                why = "left out to meet the budget"
                layer = LayerReport(name=node.name, precision="float", why=why, share=share, error=error)
            else:
                layer = _describe_quantised(node.name, layers[node.name], share, error)
            described.append(layer)
    return tuple(described)


def _describe_quantised(name: str, layer: QuantisedConv, share: float, error: float) -> LayerReport:
    bias = None if layer.bias is None else tuple(map(float, layer.bias))
    return LayerReport(
        name=name,
        precision="int8",
        why="",
        share=share,
        error=error,
        step=layer.input_scale,
        zero_point=0,
        bias=bias,
    )


def explain_refusal(result: SearchResult, options: Int8Options) -> str:
    """Why nothing fits, with the figures of the most and of the least INT8 that was tried."""
    found = "; ".join(dict.fromkeys(map(_describe_point, (result.points[0], result.points[-1]))))
    return (
        f"INT8 does not meet its budget ({options.max_drop_db:g} dB lost, {options.max_pixel_error:g} for the worst "
        f"sample): {found}; allow more with --max-drop-db or the spec's [int8], or keep it all the same with --force"
    )


def _describe_point(point: Point) -> str:
    return (
        f"with {100 * point.share:.1f} % of the multiply-adds in INT8 {point.loss.drop_db:.4f} dB are lost and the "
        f"worst sample is off by {point.loss.max_abs:.4f}"
    )
