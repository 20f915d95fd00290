"""What `int8.json` or `fp8.json` says of ranges, corrections and losses, against photographs shown to the network now.

The audit holds the quantized graph to that file, number for number; but both can be changed together. So the feature
maps of the network itself are measured again, on the crops that calibration used where those are of bundled
photographs, else on other crops of these:

- **steps**: 127 of them (FP8: 448), less the factor that was learned, reach as far as the layer's input does, within
  `_EXACT` on the same crops, `_WIDE` on others; and that factor is none that learning could not give. Of a network that
  was trained for INT8 they are those in the metadata of its weights;
- **corrections**: a bias is moved by as much as quantizing shifts its channel, not by many times that;
- **loss**: what the graph loses against the originals may not be surely more than its budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.arch.weights import read_input_steps
from sr_deploy.backends import BackendChoice
from sr_deploy.backends.registry import get_reference
from sr_deploy.bundle import Bundle, Check, GraphRecord, utc_now
from sr_deploy.errors import BackendError, SrDeployError
from sr_deploy.export.int8.calibration import measure_ranges, measure_shifts, quantize_layers
from sr_deploy.export.int8.calibration_images import CropShape, cut_crops, find_calibration_images
from sr_deploy.export.int8.equalize import apply_factors
from sr_deploy.export.int8.execute import choose_engine, open_graph
from sr_deploy.export.int8.formats import FORMATS
from sr_deploy.export.int8.placement import Placement, find_modules, place_quantization
from sr_deploy.export.int8.quantization_loss import Judge, Loss
from sr_deploy.export.int8.quantization_options import MAX_FACTOR, MIN_FACTOR
from sr_deploy.export.int8.task import RANGES_STREAM
from sr_deploy.graph.load import find_input_output
from sr_deploy.imaging.photographs import ImagePair
from sr_deploy.model import Model
from sr_deploy.runners import open_runner
from sr_deploy.runners.cost import find_cost
from sr_deploy.verification.audit import cut_findings
from sr_deploy.verification.origin import make_again, read_search

if TYPE_CHECKING:
    from onnx import ModelProto

    from sr_deploy.export.int8.search_report import Int8Report, LayerReport

_EXACT, _WIDE = 1.05, 2.0
"""Factors within which a recorded range is the measured one: of the same crops, but for another processor's rounding
and another version of the photographs; of others (measured with published networks on four sets of photographs: layers
together between 0.87 and 1.3 times as far as on the bundled ones, single ones between 0.7 and 1.7)."""
_APART = 1.8
"""A layer's factor may differ from that of the middle one by so much on other photographs (measured: 1.4)."""
_MAX_SHIFTS = 8.0
"""A correction may be so many times the greatest that is measured in its layer."""
_STREAM = 3
_SIDE = 64
_LEAST, _MOST = 6, 24
_WORK = 48e9
"""Multiply-adds of one pass over the crops that a loss is measured on, if there are more than the least."""
_EXACT_WORK = 100e9
"""The same for those that ranges are measured on again."""
_SURE = 2.0
"""Standard errors of the mean loss over the crops: 0.05 dB that are 0.02 too many by chance are none too many."""


@dataclass(frozen=True)
class _Scene:
    """What is measured with."""

    reference: ModelProto
    """The FP32 graph with its channels evened out, with FP32 input and output."""
    placement: Placement
    report: Int8Report
    engine: str
    crops: Sequence[ImagePair]
    """Crops of the bundled photographs."""
    ranges: Sequence[NDArray[np.float32]]
    """Inputs that ranges are measured on."""
    exact: bool
    """Whether these are the very ones that calibration took."""
    input_steps: Mapping[str, float]
    """That the weights were trained for INT8 with, by name of the module."""

    @property
    def largest(self) -> float:
        """Greatest number of the format."""
        return FORMATS[self.report.options.format].largest


_SCENES: dict[tuple[object, ...], _Scene] = {}


def check_calibration(model: Model, bundle: Bundle, graph: GraphRecord) -> list[Check]:
    """Measure ranges, corrections and loss of a bundle's INT8 or FP8 graph again.

    Args:
        model: the bundle, opened.
        bundle: likewise.
        graph: its INT8 or FP8 graph.

    Returns:
        Two checks; none where there is no report of a search, which the audit says.
    """
    what = f"ranges and losses of {graph.precision.upper()} on photographs"
    try:
        report = read_search(bundle, graph.precision)
        if report is None:
            return []
        scene = _set_scene(model, bundle, report)
        ranges = _check_ranges(scene)
        return [
            _make_check("calibration", graph, *ranges),
            _make_check("drop", graph, *_check_loss(model, bundle, scene)),
        ]
    except BackendError as error:
        return [_make_check("calibration", graph, what, (), str(error))]
    except SrDeployError as error:
        return [_make_check("calibration", graph, what, (str(error),))]


def _set_scene(model: Model, bundle: Bundle, report: Int8Report) -> _Scene:
    """That of a bundle; the last one is kept, since its drop and its calibration are measured one after the other."""
    manifest = bundle.manifest
    search = manifest.searches[report.options.format]
    key = (manifest.reference.sha256, manifest.rewrites, search.report.sha256, model.input_multiple)
    if key not in _SCENES:
        _SCENES.clear()
        _SCENES[key] = _make_scene(model, bundle, report)
    return _SCENES[key]


def _make_scene(model: Model, bundle: Bundle, report: Int8Report) -> _Scene:
    reference = apply_factors(make_again(model, bundle, io_dtype="fp32"), report.equalized)
    cost = find_cost(model)
    options, photographs = report.options, find_calibration_images(None)
    shape = CropShape(
        -(-_SIDE // model.input_multiple) * model.input_multiple, model.scale, model.channels, options.seed
    )
    of_crop = shape.side**2 * (0.0 if cost is None else cost.multiply_adds)
    count = max(_LEAST, int(min(_MOST, _WORK // max(of_crop, 1))))
    everything = (*photographs.calibration, *photographs.held_out)
    crops = list(cut_crops(everything, count, shape, _STREAM))
    bundled = not report.trained and report.photographs == f"{photographs.source} ({len(photographs.hashes)})"
    exact = bundled and options.crops * of_crop * (options.crop_size / _SIDE) ** 2 <= _EXACT_WORK
    ranges = [crop.network_input for crop in crops]
    if exact:
        side = -(-options.crop_size // model.input_multiple) * model.input_multiple
        same = CropShape(side, model.scale, model.channels, options.seed)
        ranges = [crop.network_input for crop in cut_crops(photographs.calibration, options.crops, same, RANGES_STREAM)]
    steps = read_input_steps(bundle.reference) if report.trained else {}
    engine = choose_engine(options.format)
    return _Scene(reference, place_quantization(reference), report, engine, crops, ranges, exact, steps)


def _check_ranges(scene: _Scene) -> tuple[str, tuple[str, ...]]:
    layers = {layer.name: layer for layer in scene.report.layers if layer.precision != "float"}
    limits = measure_ranges(
        scene.reference, scene.placement, lambda: iter(scene.ranges), scene.report.options, get_reference("graph").name
    )
    learned = scene.report.learned
    measured = {
        one.name: limits[one.data] * learned.get(one.data, 1.0)
        for one in scene.placement.candidates
        if one.name in layers
    }
    findings = [*_judge_learned(learned), *_judge_ranges(layers, measured, scene.largest, exact=scene.exact)]
    if scene.report.trained:
        findings += _judge_trained(scene, layers)
    if scene.report.shifts:
        findings += _judge_shifts(scene)
    crops = (
        "the crops that it was calibrated on" if scene.exact else f"{len(scene.ranges)} crops of bundled photographs"
    )
    name = scene.report.options.format.upper()
    what = f"steps and corrections of {len(layers)} {name} convolutions against the network's feature maps on {crops}"
    return what, cut_findings(findings)


def _judge_learned(learned: Mapping[str, float]) -> Iterator[str]:
    for name, factor in learned.items():
        if not MIN_FACTOR <= factor <= MAX_FACTOR:
            yield (
                f"the step of {name} is recorded as learned to {factor:.3g} times the calibrated one, and learning "
                f"gives {MIN_FACTOR:g} to {MAX_FACTOR:g}"
            )


def _judge_trained(scene: _Scene, layers: Mapping[str, LayerReport]) -> Iterator[str]:
    """Steps that are not those in the metadata of the weights, one line each."""
    modules = find_modules(scene.reference, scene.placement)
    for candidate in scene.placement.candidates:
        due = scene.input_steps.get(modules.get(candidate.data, ""))
        if candidate.name in layers and due is not None and layers[candidate.name].step != due:
            step = layers[candidate.name].step
            yield f"the step of {candidate.name} is {step}, and the weights were trained with {due}"
    if not scene.input_steps:
        yield "steps are said to be trained with, and the weights name none"


def _judge_ranges(
    layers: Mapping[str, LayerReport], measured: Mapping[str, float], largest: float, *, exact: bool
) -> Iterator[str]:
    """Steps of which `largest` do not reach as far as the feature maps, one line each."""
    factors = {
        name: largest * layer.step / measured[name]
        for name, layer in layers.items()
        if layer.step is not None and measured.get(name)
    }
    middle = 1.0 if exact or not factors else float(np.median(list(factors.values())))
    apart, wide = (_EXACT, _EXACT) if exact else (_APART, _WIDE)
    for name, factor in factors.items():
        if not (1 / wide <= factor <= wide and 1 / apart <= factor / middle <= apart):
            yield (
                f"the step of {name} reaches {factor:.2f} times as far as its input does on photographs"
                + ("" if exact else f", and those of most layers {middle:.2f} times")
            )


def _judge_shifts(scene: _Scene) -> Iterator[str]:
    limits = {
        candidate.data: scene.largest * layer.step
        for candidate in scene.placement.candidates
        for layer in scene.report.layers
        if layer.name == candidate.name and layer.step is not None
    }
    chosen = tuple(one for one in scene.placement.candidates if one.data in limits)
    placement = Placement(chosen, scene.placement.kept)
    layers = quantize_layers(scene.reference, placement, limits, scene.report.options)
    found = measure_shifts(scene.reference, layers, lambda: iter(scene.ranges), scene.engine)
    for name, shift in scene.report.shifts.items():
        allowed_max = _MAX_SHIFTS * float(np.abs(found[name]).max(initial=0)) if name in found else 0.0
        greatest = float(np.abs(np.array(shift)).max(initial=0))
        if not greatest <= allowed_max:
            yield (
                f"the bias of {name} is corrected by {greatest:.3g}, and quantizing it shifts no channel by more than "
                f"{allowed_max / _MAX_SHIFTS:.3g}"
            )


@dataclass(frozen=True)
class Drop:
    """What a backend loses against photographs with a quantized graph."""

    least_db: float
    """What it surely loses: the mean over the crops less two standard errors, in dB of PSNR."""
    allowed_db: float
    """The budget that the graph was made for."""
    said: str
    """Loss and limit in words."""

    @property
    def within(self) -> bool:
        """Whether the budget holds."""
        return self.least_db <= self.allowed_db


def measure_drop(model: Model, bundle: Bundle, choice: BackendChoice) -> Drop | None:
    """What a bundle's quantized graph loses against photographs where `choice` runs it; None: no budget is recorded.

    Raises:
        BackendError: it does not run here.
        BundleError: the report of its search is damaged.
    """
    report = read_search(bundle, choice.precision)
    if report is None:
        return None
    scene = _set_scene(model, bundle, report)
    loss, lower_db = _measure_loss(model, scene, choice)
    allowed = bundle.manifest.searches[report.options.format].max_drop_db
    said = f"{loss.drop_db:+.3f} dB lost on {len(scene.crops)} crops of bundled photographs ({lower_db:+.3f} at least)"
    return Drop(lower_db, allowed, f"{said}, {allowed:.3f} allowed; {loss.psnr_fp32_db:.1f} dB to FP32")


def _measure_loss(model: Model, scene: _Scene, choice: BackendChoice) -> tuple[Loss, float]:
    """The loss, and what it surely is."""
    output = find_input_output("the graph", scene.reference)[1].name
    judge = Judge(scene.crops, open_graph(scene.reference), output, model.scale)
    with open_runner(model, choice) as runner:
        loss = judge.judge(lambda lr_NCHW: {output: runner.infer(lr_NCHW)})
    return loss, loss.drop_db - _SURE * loss.standard_error_db


def _check_loss(model: Model, bundle: Bundle, scene: _Scene) -> tuple[str, tuple[str, ...]]:
    """What the file loses on photographs, against the budget."""
    name = scene.report.options.format
    record = bundle.manifest.searches[name]
    loss, lower_db = _measure_loss(model, scene, BackendChoice(get_reference("graph").name, name))
    said = (
        f"against the photographs themselves, {loss.drop_db:+.3f} dB lost now on {len(scene.crops)} crops of bundled "
        f"ones ({lower_db:+.3f} at least), {record.max_drop_db:.3f} allowed; {loss.psnr_fp32_db:.1f} dB to FP32"
    )
    return said, () if lower_db <= record.max_drop_db else (said,)


def _make_check(kind: str, graph: GraphRecord, what: str, findings: tuple[str, ...], not_checked: str = "") -> Check:
    return Check.model_validate(
        {
            "kind": kind,
            "file": graph.file,
            "sha256": graph.sha256,
            "what": what,
            "findings": findings,
            "not_checked": not_checked,
            "checked_at": utc_now(),
        }
    )
