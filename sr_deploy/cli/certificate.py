"""How `export` and `verify` show what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sr_deploy.cli.output import Output

if TYPE_CHECKING:
    from rich.table import Table

    from sr_deploy.bundle import CertificateEntry, Ledger
    from sr_deploy.certification import Verification
    from sr_deploy.verify.bisect import Bisection


def show_verification(output: Output, title: str, verification: Verification) -> None:
    """A row for each artefact and backend, the inputs, the drift ledger, what is in the files, what did not run."""
    entries = verification.entries
    output.show(_make_table(title, entries))
    for line in _describe_figures(entries):
        output.show(line)
    for ledger in verification.ledgers:
        output.show(_make_ledger(ledger))
    checks = verification.checks
    if checks:
        sound = sum(check.passed for check in checks)
        output.show(f"looked into the files: {sound} of {len(checks)} checks found nothing wrong")
    for check in checks:
        for finding in check.findings:
            output.show(f"WRONG: {check.file} ({check.kind}): {finding}")
    for one in verification.not_run:
        output.show(f"not run: {one.what}: {one.reason}")


def show_bisection(output: Output, bisection: Bisection) -> None:
    """Where a graph begins to compute something else, and the error before and after."""
    output.show(bisection.describe())


def describe_verdict(verification: Verification) -> str:
    """`verified`, or what was not."""
    return f"NOT verified: {', '.join(verification.failures)}" if verification.failures else "verified"


def _make_table(title: str, entries: Sequence[CertificateEntry]) -> Table:
    """One row for each entry: its worst figures, what was allowed, and how far away that is."""
    from rich.table import Table

    table = Table(title=f"{title} against {entries[0].reference}", title_justify="left")
    table.add_column("artefact", no_wrap=True)
    table.add_column("runs on", no_wrap=True)
    for name in ("max abs", "allowed", "PSNR", "needed", "margin", "8 bit off", "by > 1"):
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
            f"{max(one.changed_8bit for one in entry.judged_measurements):.2%}",
            f"{max(one.changed_8bit_more or 0 for one in entry.judged_measurements):.2%}",
            "ok" if entry.passed else "FAILED",
        )
    return table


def _make_ledger(ledger: Ledger) -> Table:
    from rich.table import Table

    worst = ledger.worst_stage
    said = f"{worst.name} loses most" if worst.lost_db > 0 else "nothing is lost"
    table = Table(title=f"drift ledger, {ledger.precision}, {ledger.inputs}: {said}", title_justify="left")
    table.add_column("stage", no_wrap=True)
    table.add_column("what ran", no_wrap=True)
    for name in ("to PyTorch", "to stage before", "to photographs", "lost"):
        table.add_column(name, justify="right", no_wrap=True)
    for number, stage in enumerate(ledger.stages):
        figures = (stage.psnr_db, stage.step_psnr_db, stage.truth_psnr_db)
        cells = [
            "equal" if one is None else f"{one:.{digits}f} dB" for one, digits in zip(figures, (1, 1, 3), strict=True)
        ]
        table.add_row(stage.name, stage.runs, *cells, f"{stage.lost_db:+.4f} dB" if number else "")
    return table


def describe_margin(entry: CertificateEntry) -> str:
    """The smallest distance to a threshold, as in `+29.1 dB`; negative: missed."""
    from sr_deploy.verify.margin import measure_margin

    margin = measure_margin(entry)
    return "" if margin is None else f"{margin:+.1f} dB"


def _describe_figures(entries: Sequence[CertificateEntry]) -> list[str]:
    """What was shown, and for each precision that more than one backend measured, the figure that counts: the worst."""
    from sr_deploy.backends import PRECISIONS
    from sr_deploy.verify.model import worst_entry

    shapes = dict.fromkeys(one.shape for entry in entries for one in entry.measurements)
    contents = dict.fromkeys(one.content for entry in entries for one in entry.measurements)
    lines = [f"inputs: {', '.join(contents)} in shapes {', '.join(shapes)}; the worst of each is shown"]
    left_out: dict[str, list[str]] = {}
    for entry in entries:
        for line in entry.left_out:
            left_out.setdefault(line, []).append(entry.backend)
    lines += [f"left out on {', '.join(backends)}: {line}" for line, backends in left_out.items()]
    lines += [
        f"{entry.backend} is judged on {' and '.join(entry.judged)}, which its ranges were calibrated for"
        for entry in entries
        if entry.judged
    ]
    lines += [
        f"{entry.backend} rewrites {entry.artefact.file} when it opens it: {', '.join(entry.rewrites)}"
        for entry in entries
        if entry.rewrites
    ]
    for precision in PRECISIONS:
        worst = worst_entry(entries, precision)
        if worst is not None and sum(entry.precision == precision for entry in entries) > 1:
            psnr = "equal" if worst.worst_psnr_db is None else f"{worst.worst_psnr_db:.1f} dB"
            lines.append(f"{precision} figure: {psnr}, max abs {worst.worst_max_abs:.1e} ({worst.backend}, the worst)")
    return lines
