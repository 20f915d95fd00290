"""`sr-deploy verify`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sr_deploy.cli.output import JsonOption, Output

if TYPE_CHECKING:
    from rich.table import Table

    from sr_deploy.bundle import CertificateEntry


def verify(
    model: Annotated[
        Path | None,
        typer.Argument(help="A bundle, an ONNX file (anybody's) or a checkpoint; left out: the newest bundle."),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            "--backend",
            metavar="NAME[:PRECISION]",
            help="Verify this one only, as in openvino:bf16; repeatable. Left out: all that this machine can run.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare what runs with what was trained: every graph and engine against FP32 PyTorch, on photographs.

    A bundle's result is written to its certificate.json. Exit code 3 when something falls short.
    """
    from sr_deploy.backends import parse_backend
    from sr_deploy.bundle import find_newest_bundle
    from sr_deploy.bundle.store import CERTIFICATE_NAME
    from sr_deploy.model import open_model
    from sr_deploy.verify.model import list_not_run, verify_model

    output = Output(as_json)
    choices = [parse_backend(text) for text in backend] if backend else None
    opened = open_model(model or find_newest_bundle(Path("deployments")))
    entries = verify_model(opened, choices=choices, on_stage=output.log)
    not_run = list_not_run(opened, choices)
    passed = all(entry.passed for entry in entries)
    certificate = opened.path / CERTIFICATE_NAME if opened.kind == "bundle" else None
    output.show(make_table(str(opened.path), entries))
    for line in describe_figures(entries):
        output.show(line)
    for one in not_run:
        output.show(f"not run: {one.what}: {one.reason}")
    if certificate is not None:
        output.show(f"written: {certificate}")
    output.show("verified" if passed else "NOT verified: " + ", ".join(e.backend for e in entries if not e.passed))
    output.finish(
        {
            "model": str(opened.path),
            "passed": passed,
            "entries": [entry.model_dump(mode="json") for entry in entries],
            "not_run": [{"what": one.what, "reason": one.reason} for one in not_run],
            "certificate": str(certificate) if certificate else None,
        }
    )
    if not passed:
        raise typer.Exit(3)


def make_table(title: str, entries: Sequence[CertificateEntry]) -> Table:
    """One row for each entry: its worst figures, what was allowed, and how far away that is."""
    from rich.table import Table

    table = Table(title=f"{title} against {entries[0].reference}", title_justify="left")
    table.add_column("artefact", no_wrap=True)
    table.add_column("runs on", no_wrap=True)
    for name in ("max abs", "allowed", "PSNR", "needed", "margin", "8 bit changed"):
        table.add_column(name, justify="right")
    table.add_column("")
    for entry in entries:
        limit, floor = entry.thresholds.get("max_abs"), entry.thresholds.get("psnr_db")
        table.add_row(
            entry.artefact.file,
            entry.backend,
            f"{entry.worst_max_abs:.1e}" if entry.worst_max_abs else "0",
            "" if limit is None else f"{limit:.0e}",
            "equal" if entry.worst_psnr_db is None else f"{entry.worst_psnr_db:.1f} dB",
            "" if floor is None else f"{floor:.0f} dB",
            describe_margin(entry),
            f"{max(one.changed_8bit for one in entry.measurements):.3%}",
            "ok" if entry.passed else "FAILED",
        )
    return table


def describe_margin(entry: CertificateEntry) -> str:
    """The smallest distance to a threshold in dB, as in `+29.1 dB`; negative: missed."""
    limit, floor = entry.thresholds.get("max_abs"), entry.thresholds.get("psnr_db")
    margins = []
    if limit is not None and entry.worst_max_abs > 0:
        margins.append(
            20 * math.log10(limit / entry.worst_max_abs) if math.isfinite(entry.worst_max_abs) else -math.inf
        )
    if floor is not None and entry.worst_psnr_db is not None:
        margins.append(entry.worst_psnr_db - floor)
    return f"{min(margins):+.1f} dB" if margins else ""


def describe_figures(entries: Sequence[CertificateEntry]) -> list[str]:
    """What was shown, and for each precision that more than one backend measured, the figure that counts: the worst."""
    from sr_deploy.backends import PRECISIONS
    from sr_deploy.verify.model import worst_entry

    shapes = dict.fromkeys(one.shape for entry in entries for one in entry.measurements)
    lines = [f"inputs: {entries[0].measurements[0].content}s, {', '.join(shapes)}; the worst of each is shown"]
    for precision in PRECISIONS:
        worst = worst_entry(entries, precision)
        if worst is not None and sum(entry.precision == precision for entry in entries) > 1:
            psnr = "equal" if worst.worst_psnr_db is None else f"{worst.worst_psnr_db:.1f} dB"
            lines.append(f"{precision} figure: {psnr}, max abs {worst.worst_max_abs:.1e} ({worst.backend}, the worst)")
    return lines
