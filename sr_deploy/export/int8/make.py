"""From an FP32 graph to one that is INT8 where the budget allows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sr_deploy.cache import keep, read_kept
from sr_deploy.errors import GraphError, VerificationError
from sr_deploy.export.int8.cache import KIND, Measured, calibration_key
from sr_deploy.export.int8.calibration import correct_biases, measure_ranges, measure_shifts, quantise_layers
from sr_deploy.export.int8.equalise import apply_factors, find_factors
from sr_deploy.export.int8.finish import describe_layers, explain_refusal, write_first_that_fits, write_point
from sr_deploy.export.int8.insert import QuantisedConv
from sr_deploy.export.int8.options import Int8Options
from sr_deploy.export.int8.placement import Candidate, Placement, place_quantisation
from sr_deploy.export.int8.quality import Judge
from sr_deploy.export.int8.report import PICTURE_NAME, Int8Report, draw_search, make_curve
from sr_deploy.export.int8.search import Point, SearchResult, rank_candidates, search_share
from sr_deploy.export.int8.work import Layers, Tell, Work, start_work


def make_int8_graph(
    fp32_path: Path,
    int8_path: Path,
    options: Int8Options,
    calibration: Path | None = None,
    *,
    force: bool = False,
    keep_fp32: Collection[str] = (),
    tell: Tell = lambda _: None,
) -> Int8Report:
    """Write the INT8 graph of an FP32 one, and a picture of the search beside it.

    Args:
        fp32_path: an ONNX file with FP32 images at both ends.
        int8_path: the file to write; its ends are FP32 too.
        options: budget and settings.
        calibration: folder of photographs in high resolution; None: the bundled ones.
        force: write the graph with all candidates in INT8 where no choice of them meets the budget.
        keep_fp32: nodes that compute in FP32 where they are not INT8, in an FP16 graph.
        tell: told what is being done, one line each.

    Raises:
        VerificationError: the budget cannot be met; the message has the figures, and nothing is written. Or, with
            `force`, what comes out is not finite.
        InputError: no photographs, or all too small.
        GraphError: nothing in the graph may be quantised.
        OutputError: a file cannot be written.
    """
    work = start_work(fp32_path, int8_path, options, calibration=calibration, keep_fp32=keep_fp32, tell=tell)
    placement = place_quantisation(work.model)
    if not placement.candidates:
        reasons = ", ".join(f"{name} ({reason})" for name, reason in placement.kept.items())
        raise GraphError(f"{fp32_path.name} has no convolution that may be INT8: {reasons or 'it has none at all'}")
    judge = work.open_gate_judge()
    measured = _calibrate(work, placement)
    work = replace(work, model=apply_factors(work.model, measured.factors))
    layers = _quantise(work, placement, measured)
    result = _search(work, placement, measured, layers, judge)
    written = write_first_that_fits(work, result, layers, judge)
    if written is None and not force:
        raise VerificationError(explain_refusal(result, options))
    chosen, loss = written or (result.points[0], write_point(work, result.points[0], layers, judge))
    if not np.isfinite(loss.drop_db):
        raise VerificationError(
            f"{fp32_path.name} in INT8 gives values that are not finite; --force keeps no such graph"
        )
    report = Int8Report(
        passed=written is not None,
        forced=written is None,
        share=chosen.share,
        drop_db=loss.drop_db,
        max_abs=loss.max_abs,
        psnr_fp32_db=loss.psnr_fp32_db,
        fp32_psnr_db=judge.psnr_db,
        options=options,
        photographs=f"{work.photographs.source} ({len(work.photographs.hashes)})",
        measured_with=work.engine_name,
        equalised=measured.factors,
        shifts={name: shift for name, shift in measured.shifts.items() if name not in chosen.kept},
        corrections=measured.corrections,
        layers=describe_layers(work.model, placement, chosen, measured.errors, layers),
        curve=make_curve(result.points, options),
        picture=PICTURE_NAME,
    )
    note = draw_search(report, int8_path.with_name(PICTURE_NAME))
    if note:
        tell(f"int8: {note}")
        report = report.model_copy(update={"picture": None})
    return report


def _calibrate(work: Work, placement: Placement) -> Measured:
    """Ranges, shifts and the error of each layer alone: from the cache, or measured and kept there."""
    graph = work.model.SerializeToString(deterministic=True)
    key = calibration_key(graph, work.photographs.hashes, work.options, work.engine_name)
    measured, note = read_kept(KIND, key, Measured)
    if note:
        work.tell(f"int8: {note}")
    if measured is not None:
        work.tell("int8: calibrated before with this graph, these photographs and settings; the figures kept are used")
        return measured
    measured = _measure(work, placement)
    note = keep(KIND, key, measured)
    if note:
        work.tell(f"int8: {note}")
    return measured


def _measure(work: Work, placement: Placement) -> Measured:
    options, count = work.options, len(placement.candidates)
    work.tell(f"int8: calibrate {count} convolutions on {options.crops} crops in {work.engine_name}")
    judge = work.open_search_judge()
    factors = find_factors(work.model, placement, work.stream_inputs, work.engine) if options.equalise else {}
    work = replace(work, model=apply_factors(work.model, factors))
    limits = measure_ranges(work.model, placement, work.stream_inputs, options, work.engine)
    measured = Measured(factors=factors, limits=limits, shifts={}, corrections={}, errors={})
    if options.bias_correction != "off":
        measured = _measure_correction(work, placement, measured, judge)
    quantised = _quantise(work, placement, measured)
    errors = {}
    for number, candidate in enumerate(placement.candidates):
        if number % 10 == 0:
            work.tell(f"int8: what each layer costs alone, {number} of {count} measured")
        errors[candidate.name] = judge.error(work.open_with({candidate.name: quantised[candidate.name]}))
    return measured.model_copy(update={"errors": errors})


def _measure_correction(work: Work, placement: Placement, measured: Measured, judge: Judge) -> Measured:
    """With the shifts of biases; for `auto` only if they lose less against ground truth."""
    plain = _quantise(work, placement, measured)
    found = measure_shifts(work.model, plain, work.stream_inputs, work.engine)
    corrected = measured.model_copy(
        update={"shifts": {name: tuple(map(float, shift)) for name, shift in found.items()}}
    )
    if work.options.bias_correction == "on":
        return corrected
    losses = {
        "off": judge.judge(work.open_with(plain)),
        "on": judge.judge(work.open_with(_quantise(work, placement, corrected))),
    }
    best = corrected if losses["on"].drop_db <= losses["off"].drop_db else measured
    figures = {name: (loss.drop_db, loss.psnr_fp32_db) for name, loss in losses.items()}
    return best.model_copy(update={"corrections": figures})


def _quantise(work: Work, placement: Placement, measured: Measured) -> dict[str, QuantisedConv]:
    layers = quantise_layers(work.model, placement, measured.limits, work.options)
    if not measured.shifts:
        return layers
    return correct_biases(layers, {name: np.array(shift, np.float32) for name, shift in measured.shifts.items()})


def _search(work: Work, placement: Placement, measured: Measured, layers: Layers, judge: Judge) -> SearchResult:
    ranking = work.open_search_judge()

    def measure(left_out: Sequence[Candidate]) -> Point:
        kept = tuple(candidate.name for candidate in left_out)
        run = work.open_with({name: layer for name, layer in layers.items() if name not in kept})
        share = placement.share - sum(candidate.share for candidate in left_out)
        return Point(kept, share, judge.judge(run), ranking.judge(run).psnr_fp32_db)

    def tell_point(point: Point) -> None:
        work.tell(
            f"int8: {100 * point.share:.1f} % of the multiply-adds: {point.loss.drop_db:+.4f} dB lost, "
            f"{point.loss.psnr_fp32_db:.1f} dB to FP32, worst sample off by {point.loss.max_abs:.3f}"
        )

    ranked = rank_candidates(placement.candidates, measured.errors)
    return search_share(ranked, measure, work.options, tell_point)
