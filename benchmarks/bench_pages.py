"""Tables of what benchmarks/run_all.py measured: in the README and in docs/benchmarking.md. And the report's schema."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pages import replace_table

from sr_deploy.bench.documents import make_markdown, make_markdown_table, show_figure, show_time
from sr_deploy.bench.report import BenchReport, read_report
from sr_deploy.files import write_text

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
README_SCENARIO, README_SHAPE = "photo", "1x512x512"


def update_pages(descriptions: Mapping[str, str], root: Path = ROOT, results: Path = RESULTS) -> None:
    """Write the pages from what lies in `results`; a scenario that was not measured leaves no table.

    Args:
        descriptions: of the scenarios, by name.
        root: folder of the README and of docs.
        results: folder of the reports.
    """
    reports = _read_reports(descriptions, results)
    schema = BenchReport.model_json_schema(mode="serialization")
    write_text(root / "docs" / "bench-report.schema.json", json.dumps(schema, indent=2) + "\n")
    parts = [part for name, report in reports.items() for part in _describe(name, descriptions[name], report)]
    if parts:
        replace_table("results", "\n".join(parts), root / "docs" / "benchmarking.md")
    if README_SCENARIO in reports:
        replace_table("table", make_readme_table(reports[README_SCENARIO], README_SHAPE), root / "README.md")


def write_tables(names: Iterable[str], results: Path) -> None:
    """Beside each report in `results`, the same as Markdown."""
    for name, report in _read_reports(names, results).items():
        write_text(results / f"{name}.md", make_markdown(report))


def make_readme_table(report: BenchReport, shape: str) -> str:
    """The table of the first screen, with a caption that names machine, versions, date and command."""
    lines = [
        "| backend | precision | median | images/s | against PyTorch | peak memory | agreement with PyTorch FP32 |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for result in report.results_of(shape):
        backend, precision = result.candidate.split(":")
        speedup = "1" if result.candidate == report.baseline else f"{result.speedup:.2f} times as fast"
        psnr = result.parity.psnr_db
        agreement = "the reference" if result.candidate == report.baseline else "equal"
        if psnr is not None:
            agreement = f"{psnr:.1f} dB, {100 * result.parity.changed_8bit:.2g} % of 8-bit samples differ"
        lines.append(
            f"| {backend} | {precision} | {show_time(result)} | {show_figure(result.images_per_second)} "
            f"| {speedup} | {result.peak_memory_mib:.0f} MiB | {agreement} |"
        )
    caption = (
        f"{report.model} (x{report.scale}), input {shape}; {_describe_place(report)}. `+nchw`: in PyTorch's default "
        "memory layout; without it channels_last; `+compile`: through torch.compile; `+fixed`: the "
        "graph for this one shape. Peak memory: of a process with this backend alone. "
        "[How it was measured](docs/benchmarking.md)."
    )
    return "\n".join([*lines, "", caption, ""])


def _read_reports(names: Iterable[str], results: Path) -> dict[str, BenchReport]:
    return {name: read_report(path) for name in names if (path := results / f"{name}.json").is_file()}


def _describe(name: str, description: str, report: BenchReport) -> Iterator[str]:
    yield f"### {name}\n\n{description}. [All figures](../benchmarks/results/{name}.md).\n"
    for run in report.runs:
        yield "\n".join([f"Input {run.shape}:", "", *make_markdown_table(report, run.shape), ""])
    yield f"{report.model}; {_describe_place(report)}.\n"


def _describe_place(report: BenchReport) -> str:
    machine = report.machine
    shown = ("torch", "onnxruntime", "openvino", "tensorrt-cu13", "tensorrt-rtx-cu13")
    versions = ", ".join(f"{name} {report.versions[name]}" for name in shown if name in report.versions)
    return (
        f"{machine.title()}; {report.threads} threads each; {versions}, Python {machine.python}; "
        f"{report.measured_at[:10]}; `{report.command}`"
    )
