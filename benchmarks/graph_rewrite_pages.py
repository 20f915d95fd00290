"""What graph_rewrites.py writes: the page of its results, and the tables of docs/graph.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pages import head_lines, make_table, replace_table

from sr_deploy.files import write_text

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "graph.md"
FP32 = ("openvino", "onnxruntime")
OPENED = "as its runner opens it"


@dataclass(frozen=True)
class Row:
    """One variant of one network in one backend."""

    network: str
    backend: str
    variant: str
    applied: dict[str, int]
    nodes: int
    multiply_adds: float
    bytes_moved: float
    error: float
    median_ms: float
    gain_percent: float
    spread_percent: float


def format_table(document: dict[str, object], rows: list[Row]) -> str:
    """The Markdown page."""
    lines = [
        *head_lines("What the graph rewrites are worth", "graph_rewrites.py", document),
        "Less time: median over rounds of 1 - time / time of the plain graph in the same round (more is better);",
        "spread: interquartile range of the same. Error: largest difference from PyTorch, as a share of the largest",
        "output. ONNX Runtime's threads rest between runs, so that they do not disturb the next variant.",
        "Multiply-adds and bytes (of images and feature maps) are per input pixel.",
    ]
    header = "rewrite | backend | nodes | multiply-adds | bytes | error | ms | less time | spread"
    for network in dict.fromkeys(row.network for row in rows):
        mine = [row for row in rows if row.network == network]
        order = list(dict.fromkeys(row.variant for row in mine))
        cells = map(_list_cells, sorted(mine, key=lambda row: order.index(row.variant)))
        lines += ["", f"## {network}", "", *make_table(header, cells, text=(0, 1))]
    return "\n".join(lines) + "\n"


def _list_cells(row: Row) -> tuple[object, ...]:
    counts = f"{row.multiply_adds:,.0f}", f"{row.bytes_moved:,.0f}", f"{row.error:.0e}"
    times = f"{row.median_ms:.1f}", f"{row.gain_percent:.1f} %", f"{row.spread_percent:.1f} %"
    return row.variant, row.backend, row.nodes, *counts, *times


def format_summary(document: dict[str, object], rows: list[Row], main: Sequence[str], variants: Sequence[str]) -> str:
    """The tables of docs/graph.md: less time, with its spread, of each variant in each backend."""
    found = {(row.network, row.backend, row.variant): row for row in rows}
    measured = dict.fromkeys(row.network for row in rows)
    lines = [
        f"Less time than the plain graph takes (± half the interquartile range), {document['picture']}, on",
        f"{document['machine']};",
        f"{document['versions']}; {document['date']};",
        f"`{document['command']}`. Absolute times, counts and errors",
        "are in [graph_rewrites.md](../benchmarks/results/graph_rewrites.md). `-`: the pattern is not there.",
        "",
        *_format_matrix(found, [one for one in measured if one in main], FP32, variants),
        "",
        f"GFLOP/s: {document.get('pace', 'not measured')}.",
    ]
    others = [one for one in measured if one not in main]
    if others:
        lines += ["", "Patterns that our own graphs do not have:", "", *_format_matrix(found, others, FP32, variants)]
    if any(backend == "openvino bf16" for _, backend, _ in found):
        lines += [
            "",
            "In bf16, from the same file:",
            "",
            *_format_matrix(found, list(measured), ("openvino bf16",), variants),
        ]
    return "\n".join(lines) + "\n"


def _format_matrix(
    found: dict[tuple[str, str, str], Row], networks: Sequence[str], backends: Sequence[str], variants: Sequence[str]
) -> list[str]:
    columns = [(network, backend) for network in networks for backend in backends]
    rows = []
    for variant in variants:
        cells = [found.get((*column, variant)) for column in columns]
        if any(cells):
            shown = [f"{one.gain_percent:.1f} % ± {one.spread_percent / 2:.1f}" if one else "-" for one in cells]
            rows.append([variant if variant == OPENED else f"`{variant}`", *shown])
    rows.append(["time of the plain graph", *(f"{found[*column, 'plain'].median_ms:.1f} ms" for column in columns)])
    return make_table(" | ".join(["rewrite", *map(", ".join, columns)]), rows)


def write_pages(
    document: dict[str, object], rows: list[Row], folder: Path, main: Sequence[str], variants: Sequence[str]
) -> None:
    """The Markdown of the results, and the table of docs/graph.md where they are the committed ones.

    Args:
        document: what is said of the whole run.
        rows: in the order of the page.
        folder: of the results.
        main: networks of our own, which the first table compares.
        variants: in the order of the tables.
    """
    write_text(folder / "graph_rewrites.md", format_table(document, rows))
    if folder == RESULTS:
        replace_table("table", format_summary(document, rows, main, variants), PAGE)
