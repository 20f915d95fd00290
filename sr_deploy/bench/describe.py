"""From what was measured of a candidate to its entry in the report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sr_deploy.bench.device_timing import IN_FLIGHT
from sr_deploy.bench.entry import Entry
from sr_deploy.bench.messages import FILE_FORMAT, OpenAnswer
from sr_deploy.bench.report import BenchResult, ColdStart, DeviceTiming, EndToEnd, HostCopies, Parity
from sr_deploy.bench.statistics import compare_speed, summarize_calls
from sr_deploy.bench.work import describe_roofline, find_work
from sr_deploy.bundle import Shape, Thresholds
from sr_deploy.measure.compare import Comparison
from sr_deploy.measure.peak import Peaks
from sr_deploy.model import Model


def describe_result(model: Model, entry: Entry, shape: Shape, parity: Parity, peaks: Peaks) -> BenchResult:
    """The candidate's place in the report.

    Args:
        model: what ran.
        entry: what was measured; it is released.
        shape: of the input.
        parity: how near its output is to the reference's.
        peaks: what its device reaches.
    """
    choice, opened, own = entry.choice, entry.process.opened, entry.own
    timing, speedup = summarize_calls(own), compare_speed(entry.baseline, own)
    work = find_work(model, choice, shape, on_cpu=opened["device"] == "cpu")
    megapixels = shape.n * shape.h * shape.w / 1e6
    return BenchResult(
        candidate=str(choice),
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
        peak_memory_mib=entry.peak_mib,
        import_memory_mib=opened["import_mib"],
        device_memory_mib=opened["device_mib"],
        speedup=speedup.ratio,
        speedup_low=speedup.low,
        speedup_high=speedup.high,
        cold_start=_describe_cold_start(opened),
        end_to_end=_describe_files(entry.files, shape),
        host_copies=_describe_copies(opened),
        device_timing=_describe_device(entry, shape),
        roofline=None if work is None else describe_roofline(work, timing.median, peaks),
        parity=parity,
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
    copies = opened["copies"]
    if copies is None:
        return None
    host, device = (None if one is None else one * 1e3 for one in (copies["seconds"], copies["device_seconds"]))
    return HostCopies(bytes=copies["bytes"], median_ms=host, device_ms=device)


def _describe_device(entry: Entry, shape: Shape) -> DeviceTiming | None:
    if entry.device is None:
        return None
    device, pipelined = summarize_calls([entry.device["device_seconds"]]), summarize_calls(entry.pipelined)
    return DeviceTiming(
        median_ms=device.median * 1e3,
        spread_ms=device.spread * 1e3,
        enqueue_ms=float(np.median(entry.device["enqueue_seconds"])) * 1e3,
        seconds=sum(map(sum, entry.own)),
        in_flight=IN_FLIGHT,
        pipelined_ms=pipelined.median * 1e3,
        pipelined_spread_ms=pipelined.spread * 1e3,
        pipelined_images_per_second=shape.n / pipelined.median,
    )
