"""How `export` and `verify` show what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sr_deploy.cli.output import Output

if TYPE_CHECKING:
    from rich.table import Table

    from sr_deploy.bundle import CertificateEntry
    from sr_deploy.verify.model import NotRun


def show_certificate(
    output: Output, title: str, entries: Sequence[CertificateEntry], not_run: Sequence[NotRun]
) -> None:
    """A table with a row for each artefact and backend, the inputs, the figure of each precision, what did not run."""
    output.show(_make_table(title, entries))
    for line in _describe_figures(entries):
        output.show(line)
    for one in not_run:
        output.show(f"not run: {one.what}: {one.reason}")


def describe_verdict(entries: Sequence[CertificateEntry]) -> str:
    """`verified`, or what was not."""
    failed = [f"{entry.artefact.file} on {entry.backend}" for entry in entries if not entry.passed]
    return f"NOT verified: {', '.join(failed)}" if failed else "verified"


def _make_table(title: str, entries: Sequence[CertificateEntry]) -> Table:
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


def _describe_figures(entries: Sequence[CertificateEntry]) -> list[str]:
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
