"""The tables of `sr-deploy bench`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from sr_deploy.bench.compare import BenchComparison, Change
    from sr_deploy.bench.report import BenchReport

_WIDE = 115
"""Columns of a terminal that the whole table needs."""
_NARROW = {
    "candidate": "candidate",
    "inference": "inference",
    "Mpx/s out": "Mpx/s",
    "speed-up": "speed-up",
    "peak memory": "memory",
    "parity": "parity",
}
"""Columns of `show_cells` that any terminal gets, with their headings here."""
_MORE = {"p95": "p95", "file to file": "files", "images/s": "images/s", "roofline": "roof", "cold start": "start"}


def make_tables(report: BenchReport, width: int) -> list[Table]:
    """One table for each shape, and one beneath it for what ran on a GPU.

    A terminal with fewer columns than `_WIDE` gets the most important ones.
    """
    from sr_deploy.bench.documents import device_table, show_cells

    headings = _NARROW if width < _WIDE else _NARROW | _MORE
    tables = []
    for run in report.runs:
        rows = [show_cells(result, report.baseline) for result in report.results_of(run.shape)]
        names = [name for name in rows[0] if name in headings]
        cells = [[row[name] for name in names] for row in rows]
        title = f"{report.model} x{report.scale}, input {run.shape}"
        tables.append(_make_table(title, [headings[name] for name in names], cells))
        header, cells = device_table(report, run.shape)
        if cells:
            tables.append(_make_table(f"by the GPU's clock, input {run.shape}", header, cells))
    return tables


def _make_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.table import Column, Table

    columns = (Column(name, justify="left" if name == "candidate" else "right", overflow="fold") for name in header)
    table = Table(*columns, title=title, title_justify="left", padding=0)
    for row in rows:
        table.add_row(*row)
    return table


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
