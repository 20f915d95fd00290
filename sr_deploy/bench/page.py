"""A report as one self-contained HTML page with plots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sr_deploy.bench.documents import (
    describe_report,
    device_table,
    show_cells,
    show_figure,
    show_memory,
    show_share,
    show_time,
)
from sr_deploy.bench.report import BenchReport, BenchResult
from sr_deploy.bundle import Shape, parse_shape
from sr_deploy.page.html import bars, escape, make_page, table
from sr_deploy.page.plots import Point, Series, draw_lines

_HEADER = (
    *("candidate", "inference", "p95 / p99", "file to file", "images/s", "Mpx/s out", "speed-up", "parity"),
    *("roofline", "peak memory", "cold start"),
)


def render_page(report: BenchReport) -> str:
    """The page as text: nothing in it is fetched from anywhere."""
    sections = [_show_header(report), *_show_tables(report), *_show_curves(report)]
    for run in report.runs:
        sections.append(_show_bars(report, run.shape))
    notes = "".join(f"<li>{escape(line)}</li>" for line in describe_report(report))
    return make_page(f"Benchmark: {report.model}", [*sections, f"<h2>How it was measured</h2><ul>{notes}</ul>"])


def _show_header(report: BenchReport) -> str:
    doubted = [one for one in report.results if not one.parity.verified]
    word = f"{len(doubted)} not verified" if doubted else "all verified"
    return (
        f'<header><h1>{escape(report.model)} x{report.scale}</h1><span class="verdict {"bad" if doubted else "good"}">'
        f'{word}</span><span class="soft">{escape(report.machine.title())}, {report.measured_at[:10]}</span></header>'
    )


def _show_tables(report: BenchReport) -> Iterator[str]:
    for run in report.runs:
        rows = [_cells(result, report.baseline) for result in report.results_of(run.shape)]
        yield f"<h2>Input {escape(run.shape)}</h2>{table(_HEADER, rows, numbers=range(1, len(_HEADER)))}"
        header, rows = device_table(report, run.shape)
        if rows:
            told = [list(map(escape, cells)) for cells in rows]
            yield f"<h3>By the GPU's clock</h3>{table(header, told, numbers=range(1, len(header)))}"


def _cells(result: BenchResult, baseline: str) -> list[str]:
    cells = {name: escape(text) for name, text in show_cells(result, baseline).items()}
    cells["p95 / p99"] = f"{cells['p95']} / {cells['p99']}"
    if not result.parity.verified:
        cells["parity"] = f'<span class="bad">{cells["parity"]}</span>'
    return [cells[name] for name in _HEADER]


def _show_curves(report: BenchReport) -> Iterator[str]:
    """Latency against size where a batch was run in several, throughput against batch where a size was."""
    shapes = [parse_shape(run.shape) for run in report.runs]
    for batch in dict.fromkeys(shape.n for shape in shapes):
        sizes = sorted({shape for shape in shapes if shape.n == batch}, key=_pixels)
        if len(set(map(_pixels, sizes))) > 1:
            series = _draw_series(report, sizes, _pixels, lambda one: (one.median_ms, one.spread_ms))
            title = f"Latency against size, batch {batch}"
            yield f"<h2>{title}</h2>{draw_lines(title, series, 'input, megapixels of the batch', 'ms')}"
    for size in dict.fromkeys((shape.h, shape.w) for shape in shapes):
        batches = sorted({shape for shape in shapes if (shape.h, shape.w) == size})
        if len(batches) > 1:
            series = _draw_series(report, batches, lambda shape: shape.n, _images_per_second)
            title = f"Throughput against batch, {size[0]}x{size[1]}"
            yield f"<h2>{title}</h2>{draw_lines(title, series, 'pictures in a batch', 'pictures a second')}"


def _pixels(shape: Shape) -> float:
    return shape.n * shape.h * shape.w / 1e6


def _images_per_second(result: BenchResult) -> tuple[float, float]:
    return result.images_per_second, result.images_per_second * result.spread_ms / result.median_ms


def _draw_series(
    report: BenchReport,
    shapes: Sequence[Shape],
    across: Callable[[Shape], float],
    upward: Callable[[BenchResult], tuple[float, float]],
) -> list[Series]:
    """One for each candidate: `across` places a shape, `upward` gives figure and spread."""
    points: dict[str, list[Point]] = {}
    for shape in shapes:
        for result in report.results_of(str(shape)):
            value, spread = upward(result)
            note = f"{result.candidate}, {shape}: {show_time(result)}, {show_figure(result.images_per_second)} images/s"
            points.setdefault(result.candidate, []).append(Point(across(shape), value, spread, note))
    names = dict.fromkeys(result.candidate for result in report.results)  # in every plot the same, so the colors are
    return [Series(name, points[name]) for name in names if name in points]


def _show_bars(report: BenchReport, shape: str) -> str:
    results = report.results_of(shape)
    shares = [
        (one.candidate, one.roofline.share, f"{show_share(one)}, {one.roofline.gflops_per_second:.0f} GFLOP/s")
        for one in results
        if one.roofline is not None and one.roofline.share is not None
    ]
    memory = [(one.candidate, one.peak_memory_mib, show_memory(one)) for one in results]
    parts = [("Share of the roofline", bars(shares, f"Share of the roofline at {shape}", 1.0))] if shares else []
    parts.append(("Peak memory", bars(memory, f"Peak memory at {shape}")))
    return f"<h2>Roofline and memory at {escape(shape)}</h2>" + "".join(
        f"<h3>{name}</h3>{drawn}" for name, drawn in parts
    )
