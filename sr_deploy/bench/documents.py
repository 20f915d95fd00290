"""A report as Markdown and as CSV, and the figures as people read them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from sr_deploy.bench.compare import BUSY_PROCESSORS
from sr_deploy.bench.report import BenchReport, BenchResult, ShapeRun
from sr_deploy.legible import make_legible
from sr_deploy.runners.fastest import describe_slow_int8


def show_figure(value: float) -> str:
    """At least three significant digits, never an exponent: `0.0640`, `8.30`, `120`, `15625`."""
    exponent = int(f"{value:.2e}".partition("e")[2])  # of the rounded figure: 9.996 is 10.0
    return f"{value:.{max(0, 2 - exponent)}f}"


def show_milliseconds(value: float) -> str:
    """As in `8.30 ms` or `120 ms`."""
    return f"{show_figure(value)} ms"


def show_time(result: BenchResult) -> str:
    """Median and spread, as in `8.30 ms ±3 %`."""
    return _show_spread(result.median_ms, result.spread_ms)


def _show_spread(median_ms: float, spread_ms: float) -> str:
    return f"{show_milliseconds(median_ms)} ±{100 * spread_ms / median_ms:.0f} %"


def show_speedup(result: BenchResult, baseline: str) -> str:
    """As in `2.13x (2.01-2.43)`."""
    if result.candidate == baseline:
        return "baseline"
    return f"{result.speedup:.2f}x ({result.speedup_low:.2f}-{result.speedup_high:.2f})"


def show_memory(result: BenchResult) -> str:
    """As in `133 MiB`, with the GPU's beside it."""
    device = "" if result.device_memory_mib is None else f" + {result.device_memory_mib:.0f} GPU"
    return f"{result.peak_memory_mib:.0f} MiB{device}"


def show_parity(result: BenchResult) -> str:
    """As in `61.2 dB`."""
    psnr = "equal" if result.parity.psnr_db is None else f"{result.parity.psnr_db:.1f} dB"
    return psnr if result.parity.verified else f"{psnr} NOT VERIFIED"


def show_share(result: BenchResult) -> str:
    """Share of the roofline, as in `78 %`; `-` where unknown."""
    share = result.roofline.share if result.roofline else None
    return "-" if share is None else f"{100 * share:.0f} %"


def show_name(result: BenchResult) -> str:
    """The candidate, with its device if that is no CPU."""
    return result.candidate if result.device == "cpu" else f"{result.candidate} {result.device}"


def show_cells(result: BenchResult, baseline: str) -> dict[str, str]:
    """Every figure of a candidate, by the name of its column."""
    return {
        "candidate": show_name(result),
        "inference": show_time(result),
        "p95": show_milliseconds(result.p95_ms),
        "p99": show_milliseconds(result.p99_ms),
        "file to file": show_milliseconds(result.end_to_end.median_ms),
        "images/s": show_figure(result.images_per_second),
        "Mpx/s out": show_figure(result.output_megapixels_per_second),
        "speed-up": show_speedup(result, baseline),
        "roofline": show_share(result),
        "peak memory": show_memory(result),
        "cold start": show_milliseconds(result.cold_start.total_ms),
        "parity": show_parity(result),
    }


def describe_report(report: BenchReport) -> list[str]:
    """What a reader of the figures has to know to judge them, and what is missing from them."""
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    plural = "s" if report.threads != 1 else ""
    lines = [
        f"machine: {machine.title()}; {report.threads} thread{plural} for each candidate",
        f"versions: {versions}, Python {machine.python}",
        f"command: {report.command} ({report.measured_at[:10]})",
        f"inputs: {report.content}; "
        + "; ".join(f"{run.shape} (sha256 {run.sha256[:12]}), {run.rounds} interleaved rounds" for run in report.runs),
        "time: median of the calls ± half the distance between their quartiles; speed-up: median of the rounds (10th "
        "to 90th percentile)",
        "memory: peak resident memory of a process with this candidate alone, libraries included",
        *_describe_protocol(report),
        f"parity: PSNR against {report.reference}; what is not verified is never ranked first",
        *_describe_peaks(report),
        *_describe_lock(report),
        *(line for run in report.runs for line in describe_conditions(run)),
        *_describe_copies(report),
        *describe_fixed_shapes(report),
    ]
    rewritten = {one.candidate: ", ".join(one.rewrites) for one in report.results if one.rewrites}
    lines += [f"{name} rewrites the graph when it opens it: {rewrites}" for name, rewrites in rewritten.items()]
    for run in report.runs:
        slower = describe_slow_int8({one.candidate: one.median_ms for one in report.results if one.shape == run.shape})
        lines += [f"at {run.shape}: {slower}"] if slower else []
    unsteady = [f"{one.candidate} at {one.shape}" for one in report.results if not one.steady]
    if unsteady:
        lines.append(f"WARNING: not steady when the warm-up's time was spent: {', '.join(unsteady)}")
    busiest = max((run.others_load or 0 for run in report.runs), default=0)
    if busiest > BUSY_PROCESSORS:
        lines.append(
            f"WARNING: other processes kept {busiest:.1f} processors busy meanwhile; measure again on a quiet machine"
        )
    return lines + _describe_left_out(report)


def describe_conditions(run: ShapeRun) -> list[str]:
    """Clocks, power and throttling, where the machine told."""
    seen, parts = run.conditions, []
    if seen.cpu_mhz is not None:
        lowest = "" if seen.cpu_lowest_mhz in (None, seen.cpu_mhz) else f", {seen.cpu_lowest_mhz:.0f} at the lowest"
        parts.append(f"CPU {seen.cpu_mhz:.0f} MHz{lowest}")
    if seen.cpu_watts is not None:
        parts.append(f"{seen.cpu_watts:.0f} W")
    for gpu in seen.gpus:
        known = {"MHz": gpu.clock_mhz, "W": gpu.power_watts, "°C": gpu.temperature_c}
        figures = " ".join(f"{value:.0f} {unit}" for unit, value in known.items() if value is not None)
        if gpu.clock_lowest_mhz is not None and gpu.clock_highest_mhz is not None:
            figures += f" ({gpu.clock_lowest_mhz:.0f} to {gpu.clock_highest_mhz:.0f} MHz while it worked)"
        parts.append(f"{gpu.name} {figures}")
    lines = [f"clocks at {run.shape}: {', '.join(parts)}"] if parts else []
    if seen.cpu_throttled:
        lines.append(f"WARNING: heat slowed the CPU down {seen.cpu_throttled} times at {run.shape}")
    for gpu in seen.gpus:
        if gpu.throttled:
            lines.append(f"WARNING: heat or power held {gpu.name} back {100 * gpu.throttled:.0f} % of the time")
    return lines


def device_header(in_flight: int) -> tuple[str, ...]:
    """Of the columns that `device_cells` fills."""
    return ("candidate", "on the GPU", "enqueue", f"{in_flight} in flight", "images/s", "GPU memory", "copies")


def device_cells(result: BenchResult) -> list[str]:
    """What a GPU's own clock told of a candidate; empty where none did."""
    timing, copies = result.device_timing, result.host_copies
    if timing is None:
        return []
    moved = None if copies is None else copies.median_ms
    return [
        show_name(result),
        _show_spread(timing.median_ms, timing.spread_ms),
        show_milliseconds(timing.enqueue_ms),
        _show_spread(timing.pipelined_ms, timing.pipelined_spread_ms),
        show_figure(timing.pipelined_images_per_second),
        "-" if result.device_memory_mib is None else f"{result.device_memory_mib:.0f} MiB",
        "-" if moved is None else show_milliseconds(moved),
    ]


def device_table(report: BenchReport, shape: str) -> tuple[tuple[str, ...], list[list[str]]]:
    """Header and rows of one shape; no rows where no candidate ran on a GPU."""
    timed = [one for one in report.results_of(shape) if one.device_timing is not None]
    in_flight = max((one.device_timing.in_flight for one in timed if one.device_timing), default=0)
    return device_header(in_flight), [device_cells(one) for one in timed]


def describe_fixed_shapes(report: BenchReport) -> list[str]:
    """What dynamic shapes cost, for each candidate that ran with a fixed shape too."""
    lines = []
    for fixed in report.results:
        name, plus, variant = fixed.candidate.partition("+")
        dynamic = [one for one in report.results_of(fixed.shape) if one.candidate == name]
        if plus and variant == "fixed" and dynamic:
            cost = 100 * (dynamic[0].median_ms / fixed.median_ms - 1)
            noise = 100 * (dynamic[0].spread_ms + fixed.spread_ms) / fixed.median_ms
            lines.append(f"dynamic shapes: {name} takes {cost:+.1f} % at {fixed.shape} (noise {noise:.1f} %)")
    return lines


def make_markdown(report: BenchReport) -> str:
    """Tables, one for each shape, and what a reader has to know to judge them."""
    parts = [_to_markdown(f"# {report.model} x{report.scale}"), ""]
    for run in report.runs:
        parts += [f"## Input {run.shape}", "", *make_markdown_table(report, run.shape), ""]
        header, rows = device_table(report, run.shape)
        parts += [*_lay_out(header, rows), ""] if rows else []
    return "\n".join([*parts, *(_to_markdown(f"- {line}") for line in describe_report(report)), ""])


def _to_markdown(line: str) -> str:
    """A line that may hold names of files: it stays one, and nothing in it is HTML."""
    return make_legible(line).replace("&", "&amp;").replace("<", "&lt;")


def make_markdown_table(report: BenchReport, shape: str) -> list[str]:
    """The lines of one shape's table."""
    rows = [show_cells(result, report.baseline) for result in report.results_of(shape)]
    longer = {"roofline": "of the roofline", "speed-up": f"against {report.baseline}"}
    longer["parity"] = f"parity with {report.reference}"
    return _lay_out([longer.get(name, name) for name in rows[0]], [list(row.values()) for row in rows])


def _lay_out(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
    return [*lines, *(f"| {' | '.join(cells)} |" for cells in rows)]


def make_csv(report: BenchReport) -> str:
    """A line for each candidate and shape; columns are the fields of `BenchResult`, nested ones with dots."""
    rows = [dict(_flatten(result.model_dump(mode="json"))) for result in report.results]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _flatten(document: dict[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", " ".join(value) if isinstance(value, list) else value


def _describe_peaks(report: BenchReport) -> Iterator[str]:
    for peaks in report.peaks:
        matrix = ", ".join(f"{name} {rate:.0f}" for name, rate in peaks.matrix_gflops.items())
        yield (
            f"roofline of {peaks.device}, measured: matrix products in GFLOP/s: {matrix}; "
            f"copy: {peaks.copy_gb_per_second:.1f} GB/s"
        )


def _describe_protocol(report: BenchReport) -> list[str]:
    """How candidates on a GPU were measured, if there were any."""
    timings = [one.device_timing for one in report.results if one.device_timing is not None]
    if not timings:
        return []
    return [
        "on a GPU each candidate takes turns with the baseline and is released before the next is loaded; its calls "
        f"last {min(one.seconds for one in timings):.1f} s or more; on the GPU: between CUDA events, a call at a time; "
        "enqueue: until the host has queued a call; in flight: time for each call while so many are queued"
    ]


def _describe_lock(report: BenchReport) -> Iterator[str]:
    lock = report.clock_lock
    if lock is None:
        return
    if lock.refused is not None:
        yield f"WARNING: the GPU's clock was not locked at {lock.mhz} MHz: {lock.refused}"
        return
    yield f"the GPU's clock was locked at {lock.mhz} MHz"
    if lock.kept is not None:
        yield f"WARNING: it is locked still ({lock.kept}); let it go with: nvidia-smi --reset-gpu-clocks"


def _describe_copies(report: BenchReport) -> Iterator[str]:
    for one in report.results:
        if one.host_copies is not None:
            copies, where = one.host_copies, "within the time above"
            if copies.median_ms is not None:
                where = f"{show_milliseconds(copies.median_ms)}, not within the time above"
            if copies.device_ms is not None:
                where += f"; {show_milliseconds(copies.device_ms)} of it on the way, through pinned memory"
            yield f"host copies of {one.candidate} at {one.shape}: {copies.bytes / 1e6:.1f} MB, {where}"


def _describe_left_out(report: BenchReport) -> list[str]:
    """One line for each reason, naming all that it keeps from running."""
    by_reason: dict[str, list[str]] = {}
    for one in report.left_out:
        by_reason.setdefault(one.reason.removeprefix(f"{one.candidate} "), []).append(one.candidate)
    return [f"not timed: {', '.join(names)}: {reason}" for reason, names in by_reason.items()]
