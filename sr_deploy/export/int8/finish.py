"""The graph as its file will hold it, what that loses, and what is said of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from sr_deploy.cache import keep, read_kept
from sr_deploy.export.int8.cache import JUDGED_KIND, Judged
from sr_deploy.export.int8.execute import open_graph
from sr_deploy.export.int8.formats import FORMATS, NumberFormat
from sr_deploy.export.int8.insert import QuantizedConv
from sr_deploy.export.int8.placement import Placement
from sr_deploy.export.int8.quantization_loss import Judge, Loss
from sr_deploy.export.int8.quantization_options import Int8Options
from sr_deploy.export.int8.search import Point, SearchResult
from sr_deploy.export.int8.search_report import LayerReport
from sr_deploy.export.int8.task import Layers, QuantizationTask

if TYPE_CHECKING:
    import onnx


def build_graph(task: QuantizationTask, kept: Collection[str], layers: Layers) -> onnx.ModelProto:
    """The graph as it will lie in its file, with these candidates left out."""
    from sr_deploy.export.fp16 import convert_model_to_fp16
    from sr_deploy.export.onnx_export import set_metadata

    model = task.quantize({name: layer for name, layer in layers.items() if name not in kept})
    if task.options.rest == "fp16":
        convert_model_to_fp16(model, str(task.path), task.keep_fp32)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    set_metadata(model, {**metadata, "sr_deploy.precision": task.format.name})
    return model


class Gate:
    """Says what graphs lose on held-out photographs; what was measured before is not measured again."""

    def __init__(self, task: QuantizationTask, layers: Layers, key: str) -> None:
        """Nothing is run yet.

        Args:
            task: with channels evened out.
            layers: all candidates quantized.
            key: under which what is judged is kept.
        """
        self._task, self.layers, self._key = task, layers, key
        self._judge: Judge | None = None
        kept, _ = read_kept(JUDGED_KIND, key, Judged)
        self._losses = dict(kept.losses) if kept is not None else {}
        self._psnr = kept.fp32_psnr_db if kept is not None else 0.0

    @property
    def fp32_psnr_db(self) -> float:
        """What FP32 reaches against the originals, once something was judged."""
        return self._psnr

    def judge(self, kept: Collection[str]) -> Loss:
        """What is lost with these candidates left out."""
        name = "\n".join(sorted(kept))
        if name not in self._losses:
            self._judge = self._judge or self._task.open_gate_judge()
            self._psnr = self._judge.psnr_db
            run = open_graph(build_graph(self._task, kept, self.layers), self._task.engine)
            self._losses[name] = self._judge.judge(run)
            keep(JUDGED_KIND, self._key, Judged(losses=self._losses, fp32_psnr_db=self._psnr))
        return self._losses[name]


def describe_layers(
    model: onnx.ModelProto, placement: Placement, point: Point, errors: Mapping[str, float], layers: Layers
) -> tuple[LayerReport, ...]:
    """Every convolution: its precision, why, what it costs, and how it is quantized."""
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
                layer = _describe_quantized(node.name, layers[node.name], share, error)
            described.append(layer)
    return tuple(described)


def _describe_quantized(name: str, layer: QuantizedConv, share: float, error: float) -> LayerReport:
    bias = None if layer.bias is None else tuple(map(float, layer.bias))
    return LayerReport(
        name=name,
        precision=layer.format.name,
        why="",
        share=share,
        error=error,
        step=layer.input_scale,
        zero_point=0,
        bias=bias,
    )


def explain_refusal(result: SearchResult, options: Int8Options) -> str:
    """Why nothing fits, with the figures of the largest and of the least share that was tried."""
    numbers = FORMATS[options.format]
    tried = (describe_point(point, numbers) for point in (result.points[0], result.points[-1]))
    found = "; ".join(dict.fromkeys(tried))
    return (
        f"{numbers.title} does not meet its budget ({options.max_drop_db:g} dB lost, {options.max_pixel_error:g} for "
        f"the worst visible error): {found}; allow more with --max-drop-db or the spec's [{numbers.name}], or keep it "
        "all the same with --force"
    )


def describe_point(point: Point, numbers: NumberFormat) -> str:
    """Its figures, for people."""
    loss = point.loss
    return (
        f"with {100 * point.share:.1f} % of the multiply-adds in {numbers.title} {loss.drop_db:.4f} dB are lost (at "
        f"most {loss.upper_db:.4f}), {loss.psnr_fp32_db:.1f} dB to FP32, and the worst visible error is "
        f"{loss.visible:.4f}"
    )
