"""From an FP32 graph to one that is INT8, or FP8, where the budget allows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from sr_deploy.cache import keep, read_kept
from sr_deploy.errors import GraphError, VerificationError
from sr_deploy.export.int8.cache import KIND, Measured, calibration_key, pack_moves, unpack_moves
from sr_deploy.export.int8.calibration import correct_biases, measure_ranges, measure_shifts, quantize_layers
from sr_deploy.export.int8.differentiable import UnsupportedGraphError
from sr_deploy.export.int8.equalize import apply_factors, find_factors
from sr_deploy.export.int8.finish import Gate, build_graph, describe_layers, describe_point, explain_refusal
from sr_deploy.export.int8.insert import QuantizedConv
from sr_deploy.export.int8.learn import learn_layers
from sr_deploy.export.int8.placement import Candidate, Placement, find_modules, place_quantization
from sr_deploy.export.int8.quantization_loss import Judge
from sr_deploy.export.int8.quantization_options import Int8Options
from sr_deploy.export.int8.search import Point, SearchResult, rank_candidates, search_share
from sr_deploy.export.int8.search_report import Int8Report, draw_search, make_curve, search_plot_name
from sr_deploy.export.int8.sensitivity import estimate_errors
from sr_deploy.export.int8.task import QuantizationTask, make_task
from sr_deploy.export.write import write_graph


def make_int8_graph(
    fp32_path: Path,
    int8_path: Path,
    options: Int8Options,
    calibration: Path | None = None,
    *,
    force: bool = False,
    keep_fp32: Collection[str] = (),
    input_steps: Mapping[str, float] = MappingProxyType({}),
) -> Int8Report:
    """Write the INT8 or FP8 graph of an FP32 one, and a picture of the search beside it.

    Args:
        fp32_path: an ONNX file whose input and output are FP32 images.
        int8_path: the file to write; its input and output are FP32 too.
        options: budget, settings and number format.
        calibration: folder of photographs in high resolution; None: the bundled ones.
        force: write the graph with all candidates quantized where no choice of them meets the budget.
        keep_fp32: nodes that compute in FP32 where they are not quantized, in an FP16 graph.
        input_steps: step of the data input of each convolution that the network was trained for INT8 with, by name of
            its module; empty: all are calibrated.

    Raises:
        VerificationError: the budget cannot be met; the message has the figures, and nothing is written. Or, with
            `force`, what comes out is not finite.
        InputError: no photographs, or all too small.
        GraphError: nothing in the graph may be quantized.
        OutputError: a file cannot be written.
    """
    task = make_task(
        fp32_path,
        int8_path,
        options,
        calibration=calibration,
        keep_fp32=keep_fp32,
        input_steps=input_steps,
    )
    options = task.options
    placement = place_quantization(task.model)
    if not placement.candidates:
        reasons = ", ".join(f"{name} ({reason})" for name, reason in placement.kept.items())
        raise GraphError(
            f"{fp32_path.name} has no convolution that may be {task.format.title}: {reasons or 'it has none at all'}"
        )
    measured, key = _calibrate(task, placement)
    task = replace(task, model=apply_factors(task.model, measured.factors))
    layers = _quantize(task, placement, measured)
    gate = Gate(task, layers, key)
    result = _search(task, placement, measured, gate)
    if result.chosen is None and not force:
        raise VerificationError(explain_refusal(result, options))
    chosen = result.chosen or result.points[0]
    if not np.isfinite([chosen.loss.drop_db, chosen.loss.max_abs]).all():
        raise VerificationError(
            f"{fp32_path.name} in {task.format.title} gives values that are not finite; --force keeps no such graph"
        )
    write_graph(build_graph(task, chosen.kept, layers), int8_path)
    report = _describe(task, placement, measured, result, gate)
    draw_search(report, int8_path.with_name(search_plot_name(options.format)))
    return report


def _describe(
    task: QuantizationTask, placement: Placement, measured: Measured, result: SearchResult, gate: Gate
) -> Int8Report:
    chosen = result.chosen or result.points[0]
    loss = chosen.loss
    inside = {one.data for one in placement.candidates if one.name not in chosen.kept}
    return Int8Report(
        passed=result.chosen is not None,
        forced=result.chosen is None,
        share=chosen.share,
        drop_db=loss.drop_db,
        upper_db=loss.upper_db,
        visible=loss.visible,
        high_error=loss.high_error,
        max_abs=loss.max_abs,
        psnr_fp32_db=loss.psnr_fp32_db,
        fp32_psnr_db=gate.fp32_psnr_db,
        options=task.options,
        photographs=f"{task.photographs.source} ({len(task.photographs.hashes)})",
        measured_with=task.engine_name,
        trained=bool(task.input_steps),
        equalized=measured.factors,
        learned={data: factor for data, factor in measured.learned.items() if data in inside},
        learning=measured.learning,
        shifts={name: shift for name, shift in measured.shifts.items() if name not in chosen.kept},
        corrections=measured.corrections,
        layers=describe_layers(task.model, placement, chosen, measured.errors, gate.layers),
        curve=make_curve(result.points, task.options),
        picture=search_plot_name(task.options.format),
    )


def _calibrate(task: QuantizationTask, placement: Placement) -> tuple[Measured, str]:
    """Ranges, what is learned, shifts and the error of each layer alone: from the cache, or measured and kept there.

    Returns:
        That, and the key under which what is judged with it is kept.
    """
    graph = task.model.SerializeToString(deterministic=True)
    hashes = task.photographs.hashes
    key, judged_key = calibration_key(
        graph, hashes, task.options, task.engine_name, tuple(task.keep_fp32), input_steps=task.input_steps
    )
    measured, note = read_kept(KIND, key, Measured)
    if note:
        task.say(note)
    if measured is not None:
        task.say("calibrated before with this graph, these photographs and settings; the figures kept are used")
        return measured, judged_key
    measured = _measure(task, placement)
    note = keep(KIND, key, measured)
    if note:
        task.say(note)
    return measured, judged_key


def _measure(task: QuantizationTask, placement: Placement) -> Measured:
    options, count = task.options, len(placement.candidates)
    task.say(f"calibrate {count} convolutions on {options.crops} crops in {task.engine_name}")
    factors, limits = calibrate_ranges(task, placement)
    task = replace(task, model=apply_factors(task.model, factors))
    judge = task.open_search_judge()
    measured = Measured(
        factors=factors, limits=limits, learned={}, moved={}, learning={}, shifts={}, corrections={}, errors={}
    )
    if options.learn_steps:
        measured = _learn(task, placement, measured, judge)
    if options.bias_correction != "off":
        measured = _measure_correction(task, placement, measured, judge)
    task.say("estimate what each layer costs alone")
    return measured.model_copy(update={"errors": _measure_errors(task, placement, measured, judge)})


def calibrate_ranges(
    task: QuantizationTask, placement: Placement
) -> tuple[dict[str, tuple[float, ...]], dict[str, float]]:
    """The factors that even channels out, and the magnitude that each feature map is quantized up to after that."""
    options = task.options
    factors = find_factors(task.model, placement, task.stream_inputs, task.engine) if options.equalize else {}
    even = apply_factors(task.model, factors)
    limits = measure_ranges(even, placement, task.stream_inputs, options, task.engine)
    modules = find_modules(task.model, placement)
    trained = {
        data: task.format.largest * task.input_steps[name] for data, name in modules.items() if name in task.input_steps
    }
    return factors, limits | trained


def _learn(task: QuantizationTask, placement: Placement, measured: Measured, judge: Judge) -> Measured:
    """With what was learned, if that is nearer to FP32 on crops that nothing was learned from."""
    plain = _quantize(task, placement, measured)
    learned = learn_layers(task, placement, plain)
    if isinstance(learned, str):
        task.say(f"nothing is learned, since no gradient is known for the graph's {learned}")
        return measured
    better = measured.model_copy(
        update={
            "learned": learned.factors,
            "moved": {name: pack_moves(moves) for name, moves in learned.moved.items()},
        }
    )
    before, after = (
        judge.judge(task.open_with(layers)).psnr_fp32_db for layers in (plain, _quantize(task, placement, better))
    )
    task.say(f"{before:.1f} dB to FP32 as calibrated, {after:.1f} dB learned, with everything quantized")
    best = better if after > before else measured
    return best.model_copy(update={"learning": {"before": before, "after": after}})


def _measure_errors(task: QuantizationTask, placement: Placement, measured: Measured, judge: Judge) -> dict[str, float]:
    """Of each layer alone; by gradients, and where the graph has none, by running it once for each layer."""
    layers = _quantize(task, placement, measured)
    try:
        return estimate_errors(task.model, layers, task.stream_search_inputs(), task.options.seed)
    except UnsupportedGraphError:
        return {name: judge.error(task.open_with({name: layer})) for name, layer in layers.items()}


def _measure_correction(task: QuantizationTask, placement: Placement, measured: Measured, judge: Judge) -> Measured:
    """With the shifts of biases; for `auto` only if they lose less against ground truth."""
    plain = _quantize(task, placement, measured)
    found = measure_shifts(task.model, plain, task.stream_inputs, task.engine)
    corrected = measured.model_copy(
        update={"shifts": {name: tuple(map(float, shift)) for name, shift in found.items()}}
    )
    if task.options.bias_correction == "on":
        return corrected
    losses = {
        "off": judge.judge(task.open_with(plain)),
        "on": judge.judge(task.open_with(_quantize(task, placement, corrected))),
    }
    best = corrected if losses["on"].drop_db <= losses["off"].drop_db else measured
    figures = {name: (loss.drop_db, loss.psnr_fp32_db) for name, loss in losses.items()}
    return best.model_copy(update={"corrections": figures})


def _quantize(task: QuantizationTask, placement: Placement, measured: Measured) -> dict[str, QuantizedConv]:
    limits = {data: limit * measured.learned.get(data, 1.0) for data, limit in measured.limits.items()}
    layers = quantize_layers(task.model, placement, limits, task.options)
    if measured.moved:
        moved = {name: unpack_moves(text, layers[name].weight.shape) for name, text in measured.moved.items()}
        layers = quantize_layers(task.model, placement, limits, task.options, moved)
    if not measured.shifts:
        return layers
    return correct_biases(layers, {name: np.array(shift, np.float32) for name, shift in measured.shifts.items()})


def _search(task: QuantizationTask, placement: Placement, measured: Measured, gate: Gate) -> SearchResult:
    def measure(left_out: Sequence[Candidate]) -> Point:
        kept = tuple(candidate.name for candidate in left_out)
        share = placement.share - sum(candidate.share for candidate in left_out)
        point = Point(kept, share, gate.judge(kept))
        task.say(describe_point(point, task.format))
        return point

    ranked = rank_candidates(placement.candidates, measured.errors)
    return search_share(ranked, measure, task.options)
