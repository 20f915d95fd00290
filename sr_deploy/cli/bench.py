"""`sr-deploy bench`."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sr_deploy.cli.bench_tables import make_comparison_table, make_tables
from sr_deploy.cli.options import HostCodeOption, TrustEngineOption, read_number, read_trust
from sr_deploy.cli.output import JsonOption, Output

if TYPE_CHECKING:
    from sr_deploy.bench.report import BenchReport

_PIPED_WIDTH = 120


def bench(
    model: Annotated[
        Path | None,
        typer.Argument(help="A bundle, any ONNX file or a checkpoint; left out: the newest bundle."),
    ] = None,
    *,
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
            metavar="NAME[:PRECISION][+VARIANT]",
            help="A candidate beside the baseline, as in openvino:bf16; repeatable. Variants: +nchw and +compile of "
            "torch, +fixed of graphs and engines (the timed shape alone). Default: all that run here and load quickly.",
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            parser=read_number(0.01, 86400),
            metavar="X",
            help="Time for the rounds of each candidate and shape, on average [2]; on a GPU 3 at least.",
        ),
    ] = None,
    lock_clock: Annotated[
        float | None,
        typer.Option(
            "--lock-clock",
            parser=read_number(1, 100000),
            metavar="MHZ",
            help="Lock the clock of the first GPU meanwhile, for all its users; needs administrator rights.",
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the report as one page with plots, too.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write the report as Markdown, too.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a line for each candidate and shape, too.")
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--compare",
            metavar="OLD NEW",
            help="Measure nothing: compare two reports of --json from one machine; ends with code 3 where something is "
            "slower than --max-slowdown allows, is gone or no longer verified.",
        ),
    ] = None,
    max_slowdown: Annotated[
        float | None,
        typer.Option(
            "--max-slowdown",
            parser=read_number(0, 1e6),
            metavar="PERCENT",
            help="With --compare: how much slower is accepted [10].",
        ),
    ] = None,
    trust_engine: TrustEngineOption = False,
    engine_host_code: HostCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Side by side with PyTorch: latency, throughput, memory and parity of every backend on the same photographs."""
    from sr_deploy.bench.choices import parse_candidate
    from sr_deploy.bench.run import DEFAULT_SECONDS, DEFAULT_SHAPES, bench_model
    from sr_deploy.bundle import find_newest_bundle, parse_shape
    from sr_deploy.errors import InputError
    from sr_deploy.files import make_folder
    from sr_deploy.model import open_model

    output = Output(as_json)
    files = [path for path in (html, markdown, csv) if path is not None]
    if compare is not None:
        if model or shape or backend or seconds or lock_clock or files:
            raise InputError("--compare measures nothing; leave MODEL and every option but --max-slowdown out")
        _compare(output, *compare, max_slowdown)
        return
    if max_slowdown is not None:
        raise InputError("--max-slowdown belongs to --compare OLD NEW; leave it out")
    for path in files:
        make_folder(path.parent)  # now, and not when everything is measured
    shapes = [parse_shape(text) for text in shape] if shape else DEFAULT_SHAPES
    choices = [parse_candidate(text) for text in backend] if backend else None
    trust = read_trust(trust_engine, engine_host_code)
    opened = open_model(model or find_newest_bundle(Path("deployments")), trust)
    words = [str(model)] if model else []
    words += [word for text in shape or [] for word in ("--shape", text)]
    words += [word for text in backend or [] for word in ("--backend", text)]
    words += ["--seconds", f"{seconds:g}"] if seconds else []
    words += ["--lock-clock", f"{lock_clock:.0f}"] if lock_clock else []
    with output.progress("bench") as on_progress:
        report = bench_model(
            opened,
            shapes=shapes,
            choices=choices,
            seconds_each=seconds or DEFAULT_SECONDS,
            lock_mhz=None if lock_clock is None else round(lock_clock),
            command=shlex.join(["sr-deploy", "bench", *words]),
            on_progress=on_progress,
        )
    _write_files(report, html, markdown, csv)
    _show(output, report)
    output.finish(report)


def _show(output: Output, report: BenchReport) -> None:
    from sr_deploy.bench.documents import describe_report

    for table in make_tables(report, shutil.get_terminal_size((_PIPED_WIDTH, 24)).columns):
        output.show(table)
    for line in describe_report(report):
        output.show(line)


def _write_files(report: BenchReport, html: Path | None, markdown: Path | None, csv: Path | None) -> None:
    from sr_deploy.bench.documents import make_csv, make_markdown
    from sr_deploy.bench.page import render_page
    from sr_deploy.files import write_text

    for path, render in ((html, render_page), (markdown, make_markdown), (csv, make_csv)):
        if path is not None:
            write_text(path, render(report))


def _compare(output: Output, old: Path, new: Path, max_slowdown: float | None) -> None:
    from sr_deploy.bench.compare import DEFAULT_MAX_SLOWDOWN, compare_reports
    from sr_deploy.bench.report import read_report

    bound = DEFAULT_MAX_SLOWDOWN if max_slowdown is None else max_slowdown
    comparison = compare_reports(read_report(old), read_report(new), bound)
    output.show(make_comparison_table(comparison))
    for line in (*comparison.notes, *(f"ranking: {flip}" for flip in comparison.flips)):
        output.show(line)
    slower = len(comparison.regressions)
    output.show("no regression" if not slower else f"{slower} regression{'s' if slower > 1 else ''}")
    output.finish(comparison)
    if slower:
        raise typer.Exit(3)
