"""The tables of `sr-deploy bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from sr_deploy.bench.compare import BenchComparison, Change
    from sr_deploy.bench.report import BenchReport, BenchResult

_WIDE = 115
"""Columns of a terminal that the whole table needs."""


def make_tables(report: BenchReport, width: int) -> list[Table]:
    """One table for each shape, and one beneath it for what ran on a GPU.

    A terminal with fewer columns than `_WIDE` gets the most important ones.
    """
    from rich.table import Table

    tables = []
    for run in report.runs:
        table = Table(title=f"{report.model} x{report.scale}, input {run.shape}", title_justify="left", padding=0)
        rows = [_cells(result, report.baseline) for result in report.results_of(run.shape)]
        for name, (_, narrow) in rows[0].items():
            if narrow or width >= _WIDE:
                table.add_column(name, justify="left" if name == "candidate" else "right", overflow="fold")
        for row in rows:
            table.add_row(*(text for text, narrow in row.values() if narrow or width >= _WIDE))
        tables.append(table)
        tables += _make_device_table(report, run.shape)
    return tables


def _make_device_table(report: BenchReport, shape: str) -> list[Table]:
    """By the GPU's clock; none where no candidate ran on one."""
    from rich.table import Table

    from sr_deploy.bench.documents import device_table

    header, rows = device_table(report, shape)
    if not rows:
        return []
    table = Table(title=f"by the GPU's clock, input {shape}", title_justify="left", padding=0)
    for name in header:
        table.add_column(name, justify="left" if name == "candidate" else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return [table]


def _cells(result: BenchResult, baseline: str) -> dict[str, tuple[str, bool]]:
    """By column: text, and whether a narrow terminal gets it too."""
    from sr_deploy.bench import documents as show

    return {
        "candidate": (show.show_name(result), True),
        "inference": (show.show_time(result), True),
        "p95": (show.show_milliseconds(result.p95_ms), False),
        "files": (show.show_milliseconds(result.end_to_end.median_ms), False),
        "images/s": (show.show_figure(result.images_per_second), False),
        "Mpx/s": (show.show_figure(result.output_megapixels_per_second), True),
        "speed-up": (show.show_speedup(result, baseline), True),
        "roof": (show.show_share(result), False),
        "memory": (show.show_memory(result), True),
        "start": (show.show_milliseconds(result.cold_start.total_ms), False),
        "parity": (show.show_parity(result), True),
    }


def make_comparison_table(comparison: BenchComparison) -> Table:
    """What changed, candidate by candidate."""
    from rich.table import Table

    table = Table(title=f"at most {comparison.max_slowdown_percent:g} % slower", title_justify="left")
    table.add_column("candidate", no_wrap=True)
    for name in ("shape", "before", "now", "time", "noise", "memory", ""):
        table.add_column(name, justify="right" if name else "left")
    for change in comparison.changes:
        table.add_row(*_change_cells(change))
    return table


def _change_cells(change: Change) -> list[str]:
    from sr_deploy.bench.documents import show_milliseconds

    times = ["-" if value is None else show_milliseconds(value) for value in (change.old_ms, change.new_ms)]
    return [
        change.candidate,
        change.shape,
        *times,
        "" if change.change_percent is None else f"{change.change_percent:+.1f} %",
        "" if change.noise_percent is None else f"{change.noise_percent:.1f} %",
        "" if change.memory_change_mib is None else f"{change.memory_change_mib:+.0f} MiB",
        f"{change.verdict}{' REGRESSION' if change.regression else ''}",
    ]
