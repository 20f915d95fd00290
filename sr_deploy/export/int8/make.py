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
from sr_deploy.export.int8.task import Tell, Work, make_task
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
    tell: Tell = lambda _: None,
) -> Int8Report:
    """Write the INT8 or FP8 graph of an FP32 one, and a picture of the search beside it.

    Args:
        fp32_path: an ONNX file with FP32 images at both ends.
        int8_path: the file to write; its ends are FP32 too.
        options: budget, settings and number format.
        calibration: folder of photographs in high resolution; None: the bundled ones.
        force: write the graph with all candidates quantized where no choice of them meets the budget.
        keep_fp32: nodes that compute in FP32 where they are not quantized, in an FP16 graph.
        input_steps: step of the data input of each convolution that the network was trained for INT8 with, by name of
            its module; empty: all are calibrated.
        tell: told what is being done, one line each.

    Raises:
        VerificationError: the budget cannot be met; the message has the figures, and nothing is written. Or, with
            `force`, what comes out is not finite.
        InputError: no photographs, or all too small.
        GraphError: nothing in the graph may be quantized.
        OutputError: a file cannot be written.
    """
    work = make_task(
        fp32_path,
        int8_path,
        options,
        calibration=calibration,
        keep_fp32=keep_fp32,
        input_steps=input_steps,
        tell=tell,
    )
    options = work.options
    placement = place_quantization(work.model)
    if not placement.candidates:
        reasons = ", ".join(f"{name} ({reason})" for name, reason in placement.kept.items())
        raise GraphError(
            f"{fp32_path.name} has no convolution that may be {work.format.title}: {reasons or 'it has none at all'}"
        )
    measured, key = _calibrate(work, placement)
    work = replace(work, model=apply_factors(work.model, measured.factors))
    layers = _quantize(work, placement, measured)
    gate = Gate(work, layers, key)
    result = _search(work, placement, measured, gate)
    if result.chosen is None and not force:
        raise VerificationError(explain_refusal(result, options))
    chosen = result.chosen or result.points[0]
    if not np.isfinite([chosen.loss.drop_db, chosen.loss.max_abs]).all():
        raise VerificationError(
            f"{fp32_path.name} in {work.format.title} gives values that are not finite; --force keeps no such graph"
        )
    write_graph(build_graph(work, chosen.kept, layers), int8_path)
    report = _describe(work, placement, measured, result, gate)
    note = draw_search(report, int8_path.with_name(search_plot_name(options.format)))
    if note:
        work.say(note)
        report = report.model_copy(update={"picture": None})
    return report


def _describe(work: Work, placement: Placement, measured: Measured, result: SearchResult, gate: Gate) -> Int8Report:
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
        options=work.options,
        photographs=f"{work.photographs.source} ({len(work.photographs.hashes)})",
        measured_with=work.engine_name,
        trained=bool(work.input_steps),
        equalized=measured.factors,
        learned={data: factor for data, factor in measured.learned.items() if data in inside},
        learning=measured.learning,
        shifts={name: shift for name, shift in measured.shifts.items() if name not in chosen.kept},
        corrections=measured.corrections,
        layers=describe_layers(work.model, placement, chosen, measured.errors, gate.layers),
        curve=make_curve(result.points, work.options),
        picture=search_plot_name(work.options.format),
    )


def _calibrate(work: Work, placement: Placement) -> tuple[Measured, str]:
    """Ranges, what is learned, shifts and the error of each layer alone: from the cache, or measured and kept there.

    Returns:
        That, and the key under which what is judged with it is kept.
    """
    graph = work.model.SerializeToString(deterministic=True)
    hashes = work.photographs.hashes
    key, judged_key = calibration_key(
        graph, hashes, work.options, work.engine_name, tuple(work.keep_fp32), input_steps=work.input_steps
    )
    measured, note = read_kept(KIND, key, Measured)
    if note:
        work.say(note)
    if measured is not None:
        work.say("calibrated before with this graph, these photographs and settings; the figures kept are used")
        return measured, judged_key
    measured = _measure(work, placement)
    note = keep(KIND, key, measured)
    if note:
        work.say(note)
    return measured, judged_key


def _measure(work: Work, placement: Placement) -> Measured:
    options, count = work.options, len(placement.candidates)
    work.say(f"calibrate {count} convolutions on {options.crops} crops in {work.engine_name}")
    factors, limits = calibrate_ranges(work, placement)
    work = replace(work, model=apply_factors(work.model, factors))
    judge = work.open_search_judge()
    measured = Measured(
        factors=factors, limits=limits, learned={}, moved={}, learning={}, shifts={}, corrections={}, errors={}
    )
    if options.learn_steps:
        measured = _learn(work, placement, measured, judge)
    if options.bias_correction != "off":
        measured = _measure_correction(work, placement, measured, judge)
    work.say("estimate what each layer costs alone")
    return measured.model_copy(update={"errors": _measure_errors(work, placement, measured, judge)})


def calibrate_ranges(work: Work, placement: Placement) -> tuple[dict[str, tuple[float, ...]], dict[str, float]]:
    """The factors that even channels out, and the magnitude that each feature map is quantized up to after that."""
    options = work.options
    factors = find_factors(work.model, placement, work.stream_inputs, work.engine) if options.equalize else {}
    even = apply_factors(work.model, factors)
    limits = measure_ranges(even, placement, work.stream_inputs, options, work.engine)
    modules = find_modules(work.model, placement)
    trained = {
        data: work.format.largest * work.input_steps[name] for data, name in modules.items() if name in work.input_steps
    }
    return factors, limits | trained


def _learn(work: Work, placement: Placement, measured: Measured, judge: Judge) -> Measured:
    """With what was learned, if that is nearer to FP32 on crops that nothing was learned from."""
    plain = _quantize(work, placement, measured)
    learned = learn_layers(work, placement, plain)
    if isinstance(learned, str):
        work.say(f"nothing is learned, since no gradient is known for the graph's {learned}")
        return measured
    better = measured.model_copy(
        update={
            "learned": learned.factors,
            "moved": {name: pack_moves(moves) for name, moves in learned.moved.items()},
        }
    )
    before, after = (
        judge.judge(work.open_with(layers)).psnr_fp32_db for layers in (plain, _quantize(work, placement, better))
    )
    work.say(f"{before:.1f} dB to FP32 as calibrated, {after:.1f} dB learned, with everything quantized")
    best = better if after > before else measured
    return best.model_copy(update={"learning": {"before": before, "after": after}})


def _measure_errors(work: Work, placement: Placement, measured: Measured, judge: Judge) -> dict[str, float]:
    """Of each layer alone; by gradients, and where the graph has none, by running it once for each layer."""
    layers = _quantize(work, placement, measured)
    try:
        return estimate_errors(work.model, layers, work.stream_search_inputs(), work.options.seed)
    except UnsupportedGraphError:
        return {name: judge.error(work.open_with({name: layer})) for name, layer in layers.items()}


def _measure_correction(work: Work, placement: Placement, measured: Measured, judge: Judge) -> Measured:
    """With the shifts of biases; for `auto` only if they lose less against ground truth."""
    plain = _quantize(work, placement, measured)
    found = measure_shifts(work.model, plain, work.stream_inputs, work.engine)
    corrected = measured.model_copy(
        update={"shifts": {name: tuple(map(float, shift)) for name, shift in found.items()}}
    )
    if work.options.bias_correction == "on":
        return corrected
    losses = {
        "off": judge.judge(work.open_with(plain)),
        "on": judge.judge(work.open_with(_quantize(work, placement, corrected))),
    }
    best = corrected if losses["on"].drop_db <= losses["off"].drop_db else measured
    figures = {name: (loss.drop_db, loss.psnr_fp32_db) for name, loss in losses.items()}
    return best.model_copy(update={"corrections": figures})


def _quantize(work: Work, placement: Placement, measured: Measured) -> dict[str, QuantizedConv]:
    limits = {data: limit * measured.learned.get(data, 1.0) for data, limit in measured.limits.items()}
    layers = quantize_layers(work.model, placement, limits, work.options)
    if measured.moved:
        moved = {name: unpack_moves(text, layers[name].weight.shape) for name, text in measured.moved.items()}
        layers = quantize_layers(work.model, placement, limits, work.options, moved)
    if not measured.shifts:
        return layers
    return correct_biases(layers, {name: np.array(shift, np.float32) for name, shift in measured.shifts.items()})


def _search(work: Work, placement: Placement, measured: Measured, gate: Gate) -> SearchResult:
    def measure(left_out: Sequence[Candidate]) -> Point:
        kept = tuple(candidate.name for candidate in left_out)
        share = placement.share - sum(candidate.share for candidate in left_out)
        return Point(kept, share, gate.judge(kept))

    ranked = rank_candidates(placement.candidates, measured.errors)
    return search_share(ranked, measure, work.options, lambda point: work.say(describe_point(point, work.format)))
