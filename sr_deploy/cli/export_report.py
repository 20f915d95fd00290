"""What `export` shows: files, what rewriting, FP16, INT8 and FP8 came to, the certificate, and what was chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sr_deploy.cli.certificate import describe_judgment, show_verification
from sr_deploy.cli.output import Output, format_size

if TYPE_CHECKING:
    from sr_deploy.backends import Precision
    from sr_deploy.budget import Choice
    from sr_deploy.bundle import Int8Record
    from sr_deploy.deploy import ExportResult, GraphSaving
    from sr_deploy.export.fp16_plan import Fp16Plan


def show_export(output: Output, result: ExportResult) -> None:
    """The files, how they were made, and the certificate."""
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
    if result.fp16_plan is not None:
        for line in describe_fp16_plan(result.fp16_plan):
            output.show(line)
    for precision, search in manifest.searches.items():
        output.show(describe_search(precision, search))
    for missing in result.not_built:
        output.show(f"not built here: {missing.backend}: {missing.reason}")
        output.show(f"  on the machine that will run it: {missing.command}")
    for served in result.triton:
        output.show(f"Triton model {served.name}: {served.path}")
    show_verification(output, "certificate", result.verification)
    output.show(result.verification.judgment.describe())


def document_export(result: ExportResult) -> dict[str, object]:
    """All of that as a JSON document."""
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
        "fp16_plan": None if result.fp16_plan is None else asdict(result.fp16_plan),
        "engines": [engine.model_dump(mode="json") for engine in result.engines],
        "triton": [
            {"name": served.name, "backend": served.backend, "path": str(served.path)} for served in result.triton
        ],
        "not_built": [asdict(missing) for missing in result.not_built],
        "certificate": [entry.model_dump(mode="json") for entry in result.certificate],
        "checks": [check.model_dump(mode="json") for check in result.verification.checks],
        "error_budgets": [error_budget.model_dump(mode="json") for error_budget in result.verification.error_budgets],
        "not_run": [unrun.model_dump(mode="json") for unrun in result.not_run],
        **describe_judgment(result.verification.judgment),
    }


def document_choice(choice: Choice) -> dict[str, object]:
    """What was chosen within a budget, as a JSON document."""
    from dataclasses import asdict

    return {**asdict(choice), "backend": str(choice.backend)}


def describe_choice(choice: Choice) -> list[str]:
    """What was chosen within a budget, what it costs, and what was left out, one line each."""
    from sr_deploy.runners.fastest import describe_slow_int8, describe_times

    upper = "" if choice.upper_db is None else f", at most {choice.upper_db:.3f}"
    lines = [
        f"fastest within the budget here, and what --backend auto takes: {choice.backend}, {choice.drop_db:.3f} dB "
        f"lost against photographs{upper} ({choice.max_drop_db:g} allowed); on {choice.shape} "
        f"{describe_times(choice.milliseconds)}"
    ]
    lines += [f"left out: {precision}: {reason}" for precision, reason in choice.left_out.items()]
    slow = describe_slow_int8(choice.milliseconds)
    return [*lines, slow] if slow else lines


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


def describe_search(precision: Precision, record: Int8Record) -> str:
    """What INT8 or FP8 came to, in one line."""
    verdict = "within its budget" if record.passed else "NOT within its budget, kept with --force"
    return (
        f"{precision}: {100 * record.share:.1f} % of the multiply-adds, {record.describe_loss()}, "
        f"{record.psnr_fp32_db:.1f} dB to FP32: {verdict} ({record.report.file}, {record.picture.file})"
    )


def describe_fp16_plan(plan: Fp16Plan) -> list[str]:
    """What stays FP32 in the FP16 graph and why, one line each, behind a line that says what was measured."""
    measured = f"on {plan.pictures} pictures ({plan.source} and extremes)"
    greatest = f"greatest value {plan.greatest:.4g} at {plan.greatest_at} (FP16 ends at 65504)"
    if not plan.kept:
        loss = f"no layer loses more than {100 * plan.worst_loss:.2g} % ({plan.worst_loss_at})"
        return [f"fp16: every layer fits, {greatest}, {loss}, {measured}"]
    lines = [f"fp16: {len(plan.kept)} nodes stay FP32 as planned, {greatest}, {measured}"]
    return lines + [f"  {one.name} ({one.op}): {one.reason}" for one in plan.kept]
