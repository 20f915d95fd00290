"""`sr-deploy export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sr_deploy.cli.certificate import EXIT_CODES, describe_judgement, show_verification
from sr_deploy.cli.options import read_number
from sr_deploy.cli.output import JsonOption, Output, format_size
from sr_deploy.errors import InputError

if TYPE_CHECKING:
    from sr_deploy.bundle import Int8Record
    from sr_deploy.deploy import ExportResult, GraphSaving
    from sr_deploy.export.half_plan import HalfPlan
    from sr_deploy.graph.ends import Ends


def export(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="Published file, run folder, checkpoint or bundle; left out: the newest run in runs/."),
    ] = None,
    *,
    fp16: Annotated[bool, typer.Option("--fp16", help="Make the FP16 graph too.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Make a BF16 graph too, for TensorRT.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Make an INT8 graph within a budget too.")] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Folder of photographs in high resolution to measure FP16 and INT8 on; left out: the bundled."
        ),
    ] = None,
    max_drop_db: Annotated[
        float | None,
        typer.Option(
            parser=read_number(0, 100),
            metavar="X",
            help="Budget of INT8: dB that may be lost against ground truth; left out: as the spec.",
        ),
    ] = None,
    calibration_method: Annotated[
        str | None, typer.Option(help="Ranges of INT8: max, mse or percentile; left out: as the spec.")
    ] = None,
    per_tensor: Annotated[
        bool, typer.Option("--per-tensor", help="One INT8 scale for a whole weight, not one for each channel.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Keep an INT8 graph that loses too much; the export then ends with code 3.")
    ] = False,
    ends: Annotated[
        str | None,
        typer.Option(help="What graphs take and give: fp32, fp16, uint8 or uint16 (NHWC); left out: as the spec."),
    ] = None,
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
        str | None,
        typer.Option(
            help="What builds engines: auto (all that can here), tensorrt, tensorrt-rtx or none; left out: as the spec."
        ),
    ] = None,
    triton: Annotated[
        Path | None,
        typer.Option(help="Folder of NVIDIA Triton models to write the graphs and TensorRT engines to as well."),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(help="License of the weights, for the certificate; left out: as the checkpoint says, if it does."),
    ] = None,
    sign: Annotated[
        Path | None,
        typer.Option(metavar="KEY", help="Sign the bundle with this private key (PEM); verify --verify-key checks it."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the bundle; left out: deployments/NAME.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Turn a checkpoint into a verified bundle: ONNX graphs, TensorRT engines, a certificate."""
    from typing import cast

    from sr_deploy.bundle import EngineBackend, parse_profile
    from sr_deploy.deploy import export_bundle
    from sr_deploy.export.int8.bundle import Calibration
    from sr_deploy.export.spec import load_spec

    output = Output(as_json)
    profiles = tuple(parse_profile(text) for text in profile or ())
    wanted = load_spec(spec).with_options(
        fp16=fp16,
        bf16=bf16,
        int8=int8,
        int8_changes=_read_int8(max_drop_db, calibration_method, per_tensor=per_tensor),
        ends=_read_ends(ends),
        profiles=profiles,
        rewrite=rewrite,
    )
    if calibration is not None and not {"fp16", "int8"}.intersection(wanted.precisions):
        raise InputError("--calibration is for FP16 and INT8, and neither is asked for; add --fp16 or --int8")
    source = checkpoint or _find_newest_checkpoint()
    with output.status() as tell:
        result = export_bundle(
            source,
            wanted,
            out,
            cast("EngineBackend | None", backend),
            on_stage=output.log,
            on_progress=lambda progress: tell(str(progress), progress.seconds),
            triton=triton,
            calibration=Calibration(calibration, force),
            license=license,
            sign=sign,
        )
    pace = _measure_pace(result)
    _show(output, result)
    if pace:
        output.show(pace)
    output.finish(_document(result) | ({"int8_pace": pace} if pace else {}))
    if not result.passed:
        said = result.verification.judgement.describe()
        output.log(f"error: {said}; the bundle is kept at {result.bundle.path}, see its certificate.json")
        raise typer.Exit(EXIT_CODES[result.verification.verdict])


def _measure_pace(result: ExportResult) -> str:
    """How fast INT8 is here, and whether BF16 is faster; empty without INT8, and where nothing here runs it."""
    if result.bundle.manifest.int8 is None:
        return ""
    from sr_deploy.model import open_model
    from sr_deploy.runners.fastest import measure_int8_pace

    return measure_int8_pace(open_model(result.bundle.path))


def _read_int8(max_drop_db: float | None, method: str | None, *, per_tensor: bool) -> dict[str, object]:
    """What the command line says of INT8, as fields of the spec's [int8]."""
    from typing import get_args

    from sr_deploy.export.int8.options import Method

    if method is not None and method not in get_args(Method):
        raise InputError(f"--calibration-method takes {', '.join(get_args(Method))}, not {method!r}")
    changes: dict[str, object] = {"max_drop_db": max_drop_db, "method": method}
    changes["per_channel"] = False if per_tensor else None
    return {name: value for name, value in changes.items() if value is not None}


def _read_ends(text: str | None) -> Ends | None:
    from sr_deploy.graph.ends import ENDS

    for known in ENDS:
        if text == known:
            return known
    if text is not None:
        raise InputError(f"--ends takes {', '.join(ENDS)}, not {text!r}")
    return None


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
    if result.half_plan is not None:
        for line in describe_half_plan(result.half_plan):
            output.show(line)
    if manifest.int8 is not None:
        output.show(describe_int8(manifest.int8))
    for missing in result.not_built:
        output.show(f"not built here: {missing.backend}: {missing.reason}")
        output.show(f"  on the machine that will run it: {missing.command}")
    for served in result.triton:
        output.show(f"Triton model {served.name}: {served.path}")
    show_verification(output, "certificate", result.verification)
    output.show(result.verification.judgement.describe())


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
        "half_plan": None if result.half_plan is None else asdict(result.half_plan),
        "engines": [engine.model_dump(mode="json") for engine in result.engines],
        "triton": [
            {"name": served.name, "backend": served.backend, "path": str(served.path)} for served in result.triton
        ],
        "not_built": [asdict(missing) for missing in result.not_built],
        "certificate": [entry.model_dump(mode="json") for entry in result.certificate],
        "checks": [check.model_dump(mode="json") for check in result.verification.checks],
        "ledgers": [ledger.model_dump(mode="json") for ledger in result.verification.ledgers],
        "not_run": [unrun.model_dump(mode="json") for unrun in result.not_run],
        **describe_judgement(result.verification.judgement),
    }


def describe_saving(saving: GraphSaving) -> str:
    """What rewriting saved, in one line."""
    steps, before, after, timing = saving.report.applied, saving.report.before, saving.report.after, saving.timing
    if not steps:
        return "rewritten: nothing to save in this graph"
    figures = [f"{before.nodes} to {after.nodes} nodes"]
    if before.multiply_adds and after.multiply_adds and before.bytes_moved and after.bytes_moved:
        operations = f"{2e-6 * before.multiply_adds:.4g} to {2e-6 * after.multiply_adds:.4g} MFLOP"
        moved = f"{format_size(round(before.bytes_moved))} to {format_size(round(after.bytes_moved))}"
        figures.append(f"{operations} and {moved} per input pixel")
    if timing is None:
        figures.append("not timed: neither OpenVINO nor ONNX Runtime is installed")
    else:
        opened = f" with {', '.join(timing.rewrites)} besides" if timing.rewrites else ""
        figures.append(
            f"{timing.before_ms:.3g} to {timing.after_ms:.3g} ms on {timing.backend} at {timing.shape} "
            f"({timing.ratio:.2f}x, {timing.ratio_low:.2f}-{timing.ratio_high:.2f}){opened}"
        )
    return f"rewritten ({', '.join(step.name for step in steps)}): {', '.join(figures)}"


def describe_int8(record: Int8Record) -> str:
    """What INT8 came to, in one line."""
    verdict = "within its budget" if record.passed else "NOT within its budget, kept with --force"
    picture = "" if record.picture is None else f", {record.picture.file}"
    return (
        f"int8: {100 * record.share:.1f} % of the multiply-adds, {record.describe_loss()}, "
        f"{record.psnr_fp32_db:.1f} dB to FP32: {verdict} ({record.report.file}{picture})"
    )


def describe_half_plan(plan: HalfPlan) -> list[str]:
    """What stays FP32 in the FP16 graph and why, one line each, behind a line that says what was measured."""
    measured = f"on {plan.pictures} pictures ({plan.source} and extremes)"
    greatest = f"greatest value {plan.greatest:.4g} at {plan.greatest_at} (FP16 ends at 65504)"
    if not plan.kept:
        loss = f"no layer loses more than {100 * plan.worst_loss:.2g} % ({plan.worst_loss_at})"
        return [f"fp16: every layer fits, {greatest}, {loss}, {measured}"]
    lines = [f"fp16: {len(plan.kept)} nodes stay FP32 as planned, {greatest}, {measured}"]
    return lines + [f"  {one.name} ({one.op}): {one.reason}" for one in plan.kept]
