"""`sr-deploy export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sr_deploy.cli.certificate import describe_verdict, show_certificate
from sr_deploy.cli.output import JsonOption, Output, format_size

if TYPE_CHECKING:
    from sr_deploy.deploy import ExportResult, GraphSaving


def export(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="Published file, run folder, checkpoint or bundle; left out: the newest run in runs/."),
    ] = None,
    *,
    fp16: Annotated[bool, typer.Option("--fp16", help="Make the FP16 graph too.")] = False,
    spec: Annotated[str, typer.Option(help="Deployment spec: a name from export/, or a .toml file.")] = "default",
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help="Shapes that engines take, NAME=MIN,OPT,MAX, each NxHxW; may be repeated; instead of the spec's."
        ),
    ] = None,
    rewrite: Annotated[
        bool, typer.Option("--rewrite/--no-rewrite", help="Rewrite graphs so that backends have less to do, exactly.")
    ] = True,
    backend: Annotated[
        str, typer.Option(help="What builds engines: auto (all that can here), tensorrt, tensorrt-rtx or none.")
    ] = "auto",
    out: Annotated[Path | None, typer.Option(help="Folder of the bundle; left out: deployments/NAME.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Turn a checkpoint into a verified bundle: ONNX graphs, TensorRT engines, a certificate."""
    from typing import cast

    from sr_deploy.bundle import parse_profile
    from sr_deploy.deploy import export_bundle
    from sr_deploy.engine.bundle import EngineBackend
    from sr_deploy.export.spec import load_spec

    output = Output(as_json)
    profiles = tuple(parse_profile(text) for text in profile or ())
    wanted = load_spec(spec).with_options(fp16=fp16, profiles=profiles, rewrite=rewrite)
    result = export_bundle(
        checkpoint or _find_newest_checkpoint(), wanted, out, cast("EngineBackend", backend), on_stage=output.log
    )
    _show(output, result)
    output.finish(_document(result))
    if not result.passed:
        output.log(
            f"error: {describe_verdict(result.certificate)}; the bundle is kept at {result.bundle.path}, "
            "see its certificate.json"
        )
        raise typer.Exit(3)


def _find_newest_checkpoint() -> Path:
    from sr_deploy.train.run import find_newest_run

    return find_newest_run(Path("runs"))


def _show(output: Output, result: ExportResult) -> None:
    from rich.table import Table

    manifest, folder = result.bundle.manifest, result.bundle.path
    output.show(f"{folder}: {manifest.arch.title()}")
    files = Table()
    for column in ("file", "size", "what"):
        files.add_column(column, justify="right" if column == "size" else "left")
    what = {manifest.reference.file: "PyTorch weights, the reference"}
    what |= {graph.file: f"ONNX graph, {graph.precision}" for graph in manifest.graphs}
    for engine in result.engines:
        target = engine.target.replace("+", " ")
        what[engine.engine.file] = f"{engine.backend} {engine.backend_version}, {engine.precision}, {target}"
    for name, description in what.items():
        files.add_row(name, format_size((folder / name).stat().st_size), description)
    output.show(files)
    if result.saving is not None:
        output.show(describe_saving(result.saving))
    for missing in result.not_built:
        output.show(f"not built here: {missing.backend}: {missing.reason}")
        output.show(f"  on the machine that will run it: {missing.command}")
    show_certificate(output, "certificate", result.certificate, result.not_run)
    output.show(describe_verdict(result.certificate))


def _document(result: ExportResult) -> dict[str, object]:
    from dataclasses import asdict

    manifest, folder = result.bundle.manifest, result.bundle.path
    records = (manifest.reference, *manifest.graphs, *(engine.engine for engine in result.engines))
    return {
        "bundle": str(folder),
        "manifest": manifest.model_dump(mode="json"),
        "files": [
            {"file": record.file, "bytes": (folder / record.file).stat().st_size, "sha256": record.sha256}
            for record in records
        ],
        "saving": None if result.saving is None else asdict(result.saving),
        "engines": [engine.model_dump(mode="json") for engine in result.engines],
        "not_built": [asdict(missing) for missing in result.not_built],
        "certificate": [entry.model_dump(mode="json") for entry in result.certificate],
        "not_run": [asdict(unrun) for unrun in result.not_run],
        "passed": result.passed,
    }


def describe_saving(saving: GraphSaving) -> str:
    """What rewriting saved, in one line."""
    steps, before, after, timing = saving.report.applied, saving.report.before, saving.report.after, saving.timing
    if not steps or timing is None:
        return "rewritten: nothing to save in this graph"
    figures = [f"{before.nodes} to {after.nodes} nodes"]
    if before.multiply_adds and after.multiply_adds and before.bytes_moved and after.bytes_moved:
        operations = f"{2e-6 * before.multiply_adds:.4g} to {2e-6 * after.multiply_adds:.4g} MFLOP"
        moved = f"{format_size(round(before.bytes_moved))} to {format_size(round(after.bytes_moved))}"
        figures.append(f"{operations} and {moved} per input pixel")
    figures.append(
        f"{timing.before_ms:.3g} to {timing.after_ms:.3g} ms on {timing.backend} at {timing.shape} "
        f"({timing.ratio:.2f}x, {timing.ratio_low:.2f}-{timing.ratio_high:.2f})"
    )
    return f"rewritten ({', '.join(step.name for step in steps)}): {', '.join(figures)}"
