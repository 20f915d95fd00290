"""`bench_model`: every candidate on every shape, and the report."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sr_deploy.bench.choices import CandidateChoice, choose_candidates, parse_candidate
from sr_deploy.bench.report import BenchReport
from sr_deploy.bench.shape import ShapeBench
from sr_deploy.bundle import Shape, utc_now
from sr_deploy.gpus import find_gpu
from sr_deploy.measure.clocks import LockedClock
from sr_deploy.measure.machine import describe_machine, tool_versions
from sr_deploy.measure.peak import measure_peaks_apart
from sr_deploy.model import Model, open_model
from sr_deploy.progress import OnProgress
from sr_deploy.runners.parity import describe_reference
from sr_deploy.runners.threads import default_threads

DEFAULT_SHAPES = (Shape(1, 128, 128),)
DEFAULT_SECONDS = 2.0


def bench_model(
    model: Model | Path | str,
    *,
    shapes: Sequence[Shape] = DEFAULT_SHAPES,
    choices: Sequence[CandidateChoice | str] | None = None,
    seconds_each: float = DEFAULT_SECONDS,
    threads: int | None = None,
    lock_mhz: int | None = None,
    command: str = "sr_deploy.bench_model",
    on_progress: OnProgress | None = None,
) -> BenchReport:
    """Time PyTorch and other backends side by side on photographs.

    Every candidate runs in a process of its own with the same number of threads, is warmed up until its calls take
    the same time, and then they take turns, round after round: first the inference alone, then from file to file. On a
    GPU each takes turns with the baseline alone, and is released before the next is loaded. Its output is compared with
    the reference's on the very input that is timed.

    Args:
        model: a bundle, an ONNX file or a checkpoint, or its path.
        shapes: inputs.
        choices: candidates, as in `openvino:bf16` or `torch:bf16+compile`; None: all that run here and are quickly
            loaded. The baseline (PyTorch eager in FP32, or ONNX Runtime where there are no weights) is always
            among them.
        seconds_each: time for the rounds of each candidate and shape, on average; 3 at least on a GPU.
        threads: of the CPU; None: one a core.
        lock_mhz: keep the first GPU at this clock meanwhile, for everybody on it; needs an administrator's rights, and
            the report says whether it was done. None: leave it to the GPU.
        command: named in the report.
        on_progress: told of each round.

    Raises:
        BackendError: the baseline does not run.
        InputError: no such model, or nothing to compare with.
        ShapeError: a shape that the baseline does not take.
    """
    if not isinstance(model, Model):
        model = open_model(Path(model))
    threads = threads or default_threads()
    reference = describe_reference(model)
    wanted = None if choices is None else [parse_candidate(one) if isinstance(one, str) else one for one in choices]
    candidates, left_out = choose_candidates(model, wanted)
    find_peaks = functools.partial(measure_peaks_apart, threads=threads)
    outcomes = []
    lock = None if lock_mhz is None else LockedClock(find_gpu(None), lock_mhz)
    with lock or contextlib.nullcontext():
        for index, shape in enumerate(shapes):
            bench = ShapeBench(
                model,
                shape,
                threads=threads,
                seconds_each=seconds_each,
                find_peaks=find_peaks,
                on_progress=_scaled(on_progress or (lambda _: None), index, len(shapes)),
            )
            outcomes.append(bench.run(candidates))
    results = [result for outcome in outcomes for result in outcome.results]
    return BenchReport(
        measured_at=utc_now(),
        command=command,
        machine=describe_machine(),
        threads=threads,
        clock_lock=None if lock is None else lock.record,
        peaks=tuple(map(find_peaks, dict.fromkeys(result.device for result in results))),
        versions=tool_versions(),
        model=model.path.name,
        model_sha256=reference.sha256,
        scale=model.scale,
        channels=model.channels,
        content="photographs",
        reference=reference.title,
        baseline=str(candidates[0]),
        runs=tuple(outcome.run for outcome in outcomes),
        results=tuple(results),
        left_out=tuple(left_out + [one for outcome in outcomes for one in outcome.failed]),
    )


def _scaled(on_progress: OnProgress, index: int, count: int) -> OnProgress:
    """Progress of one shape as a part of the whole."""
    return lambda progress: on_progress(replace(progress, done=index + progress.done, total=count))
