"""From what was measured of a contender to its entry in the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sr_deploy.bench.choices import ContenderChoice
from sr_deploy.bench.report import BenchResult, ColdStart, EndToEnd, HostCopies, Parity
from sr_deploy.bench.rounds import Turns
from sr_deploy.bench.statistics import compare_speed, summarize_calls
from sr_deploy.bench.work import describe_roofline, find_work
from sr_deploy.bench.worker import FILE_FORMAT, OpenAnswer
from sr_deploy.bundle import Shape, Thresholds
from sr_deploy.measure.compare import Comparison
from sr_deploy.measure.peak import Peaks
from sr_deploy.model import Model


@dataclass(frozen=True)
class Measured:
    """Of one contender on one shape."""

    opened: OpenAnswer
    """What its process said when it was ready."""
    parity: Parity
    """How near its output is to the reference's."""
    baseline: Turns
    """The baseline's turns."""
    own: Turns
    """Its own."""
    files: Turns
    """Its own from file to file."""
    peak_mib: float
    """Greatest resident memory."""


def describe_result(
    model: Model, choice: ContenderChoice, shape: Shape, measured: Measured, peaks: Peaks
) -> BenchResult:
    """The contender's entry."""
    opened, own = measured.opened, measured.own
    timing, speedup = summarize_calls(own), compare_speed(measured.baseline, own)
    work = find_work(model, choice, shape, on_cpu=opened["device"] == "cpu")
    megapixels = shape.n * shape.h * shape.w / 1e6
    return BenchResult(
        contender=str(choice),
        backend_version=opened["version"],
        rewrites=tuple(opened["rewrites"]),
        device=opened["device"],
        shape=str(shape),
        arrays="device" if opened["arrays"] == "device" else "host",
        warm_up_calls=opened["warm_up_calls"],
        steady=opened["steady"],
        calls=sum(map(len, own)),
        median_ms=timing.median * 1e3,
        p95_ms=timing.p95 * 1e3,
        p99_ms=timing.p99 * 1e3,
        spread_ms=timing.spread * 1e3,
        images_per_second=shape.n / timing.median,
        input_megapixels_per_second=megapixels / timing.median,
        output_megapixels_per_second=megapixels * model.scale**2 / timing.median,
        peak_memory_mib=measured.peak_mib,
        import_memory_mib=opened["import_mib"],
        device_memory_mib=opened["device_mib"],
        speedup=speedup.ratio,
        speedup_low=speedup.low,
        speedup_high=speedup.high,
        cold_start=_describe_cold_start(opened),
        end_to_end=_describe_files(measured.files, shape),
        host_copies=_describe_copies(opened),
        roofline=None if work is None else describe_roofline(work, timing.median, peaks),
        parity=measured.parity,
    )


def describe_parity(limits: Thresholds, comparison: Comparison) -> Parity:
    """Whether a comparison meets the limits."""
    return Parity(
        max_abs=comparison.max_abs,
        psnr_db=comparison.psnr_db,
        changed_8bit=comparison.changed_8bit,
        verified=limits.met_by(comparison),
    )


def _describe_cold_start(opened: OpenAnswer) -> ColdStart:
    cold = opened["cold_seconds"]
    return ColdStart(
        import_ms=cold["imported"] * 1e3,
        load_ms=cold["loaded"] * 1e3,
        first_call_ms=cold["first_call"] * 1e3,
        build_ms=None if cold["built"] is None else cold["built"] * 1e3,
    )


def _describe_files(turns: Sequence[Sequence[float]], shape: Shape) -> EndToEnd:
    timing = summarize_calls(turns)
    return EndToEnd(
        format=FILE_FORMAT,
        calls=sum(map(len, turns)),
        median_ms=timing.median * 1e3,
        spread_ms=timing.spread * 1e3,
        images_per_second=shape.n / timing.median,
    )


def _describe_copies(opened: OpenAnswer) -> HostCopies | None:
    size, seconds = opened["copied_bytes"], opened["copy_seconds"]
    return None if size is None else HostCopies(bytes=size, median_ms=None if seconds is None else seconds * 1e3)
