"""`sr-deploy bench`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sr_deploy.cli.output import JsonOption, Output

if TYPE_CHECKING:
    from rich.table import Table

    from sr_deploy.bench.report import BenchReport, BenchResult

BUSY_PROCESSORS = 0.2  # what others may use before a table warns of it


def bench(
    model: Annotated[
        Path | None,
        typer.Argument(help="A bundle, an ONNX file (anybody's) or a checkpoint; left out: the newest bundle."),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--shape", metavar="NxHxW", help="Batch, height and width of the input; repeatable. Default: 1x128x128."
        ),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            "--backend",
            metavar="NAME[:PRECISION]",
            help="A contender beside the baseline, as in openvino:bf16; repeatable. Default: all that run here.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Side by side with PyTorch: latency, throughput, memory and parity of every backend on the same photographs."""
    from sr_deploy.backends import parse_backend
    from sr_deploy.bench.run import DEFAULT_SHAPES, bench_model
    from sr_deploy.bundle import find_newest_bundle, parse_shape
    from sr_deploy.model import open_model

    output = Output(as_json)
    shapes = [parse_shape(text) for text in shape] if shape else DEFAULT_SHAPES
    choices = [parse_backend(text) for text in backend] if backend else None
    opened = open_model(model or find_newest_bundle(Path("deployments")))
    with output.progress("bench", total=len(shapes)) as advance:
        report = bench_model(
            opened,
            shapes=shapes,
            choices=choices,
            command=_spell_command(model, shape or [], backend or []),
            on_progress=lambda done, _total, note: advance(done, note),
        )
    for table in make_tables(report):
        output.show(table)
    for line in describe_report(report):
        output.show(line)
    output.finish(report)


def _spell_command(model: Path | None, shapes: Sequence[str], backends: Sequence[str]) -> str:
    words = ["sr-deploy", "bench", *([str(model)] if model else [])]
    for shape in shapes:
        words += ["--shape", shape]
    for backend in backends:
        words += ["--backend", backend]
    return shlex.join(words)


def make_tables(report: BenchReport) -> list[Table]:
    """One table for each shape."""
    from rich.table import Table

    tables = []
    for shape in report.shapes:
        table = Table(title=f"{report.model} x{report.scale}, input {shape}", title_justify="left")
        table.add_column("contender")
        table.columns[0].no_wrap = True
        for name in ("median", "p95", "images/s", "Mpx/s in", "Mpx/s out", "speed-up", "memory", "parity"):
            table.add_column(name, justify="right", no_wrap=name == "speed-up")
        for result in report.results:
            if result.shape == shape:
                table.add_row(*_cells(result, report.baseline))
        tables.append(table)
    return tables


def _cells(result: BenchResult, baseline: str) -> list[str]:
    spread = f" ({result.speedup_low:.2f}-{result.speedup_high:.2f})"
    memory = f"{result.peak_memory_mib:.0f} MiB"
    if result.device_memory_mib is not None:
        memory += f" + {result.device_memory_mib:.0f} GPU"
    psnr = "equal" if result.parity.psnr_db is None else f"{result.parity.psnr_db:.1f} dB"
    return [
        result.contender if result.device == "cpu" else f"{result.contender} {result.device}",
        _milliseconds(result.median_ms),
        _milliseconds(result.p95_ms),
        f"{result.images_per_second:.2f}",
        f"{result.input_megapixels_per_second:.3f}",
        f"{result.output_megapixels_per_second:.2f}",
        "baseline" if result.contender == baseline else f"{result.speedup:.2f}x{spread}",
        memory,
        psnr if result.parity.verified else f"{psnr} NOT VERIFIED",
    ]


def _milliseconds(value: float) -> str:
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{decimals}f} ms"


def describe_report(report: BenchReport) -> list[str]:
    """What a reader of the table has to know to judge it, and what is missing from it."""
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    rounds = "; ".join(
        f"{shape}: {next(one.rounds for one in report.results if one.shape == shape)} interleaved rounds"
        for shape in report.shapes
    )
    plural = "s" if report.threads != 1 else ""
    lines = [
        f"machine: {machine.title()}; {report.threads} thread{plural} for each contender",
        f"versions: {versions}, Python {machine.python}",
        f"command: {report.command} ({report.measured_at[:10]})",
        f"inputs: {report.content}; {rounds}; speed-up: median of the rounds (10th to 90th percentile)",
        "memory: peak resident memory of a process with this contender alone, libraries included",
        f"parity: PSNR against {report.reference}; what is not verified is never ranked first",
    ]
    rewritten = {one.contender: ", ".join(one.rewrites) for one in report.results if one.rewrites}
    lines += [f"{name} rewrites the graph when it opens it: {rewrites}" for name, rewrites in rewritten.items()]
    busiest = max((one.others_load or 0 for one in report.results), default=0)
    if busiest > BUSY_PROCESSORS:
        lines.append(
            f"WARNING: other processes kept {busiest:.1f} processors busy meanwhile; measure again on a quiet machine"
        )
    return lines + _describe_left_out(report)


def _describe_left_out(report: BenchReport) -> list[str]:
    """One line for each reason, naming all that it keeps from running."""
    by_reason: dict[str, list[str]] = {}
    for one in report.left_out:
        by_reason.setdefault(one.reason.removeprefix(f"{one.contender} "), []).append(one.contender)
    return [f"not timed: {', '.join(names)}: {reason}" for reason, names in by_reason.items()]
