"""How `export` and `verify` show what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sr_deploy.cli.output import Output

if TYPE_CHECKING:
    from rich.table import Table

    from sr_deploy.bundle import CertificateEntry, ErrorBudget
    from sr_deploy.bundle.verdict import Judgment
    from sr_deploy.verification.bisect import Bisection
    from sr_deploy.verification.verify import Verification


EXIT_CODES = {"verified": 0, "failed": 3, "incomplete": 4}
"""What `verify` exits with, by verdict."""


def show_verification(output: Output, title: str, verification: Verification) -> None:
    """A row for each artifact and backend, the inputs, the error budget, what is in the files, what did not run."""
    entries = verification.entries
    if entries:
        output.show(_make_table(title, entries))
        for line in _describe_figures(entries):
            output.show(line)
    for budget in verification.error_budgets:
        output.show(_make_error_budget(budget))
    checks = verification.checks
    if checks:
        sound = sum(check.passed and not check.not_checked for check in checks)
        output.show(f"what is in the files: {sound} of {len(checks)} checks found nothing wrong")
    for line in _describe_standing(verification):
        output.show(line)


def _describe_standing(verification: Verification) -> Iterator[str]:
    """What is wrong, found now or before, here or elsewhere; what was not checked, not run, or asked for too little."""
    from sr_deploy.verification.agreement import describe_agreement

    judgment = verification.judgment
    for failure in judgment.failures:
        measured_now = failure.kind == "run" and failure.name in _name_entries(verification)
        for line in () if measured_now else failure.lines:
            yield f"WRONG: {failure.name}: {line}"
        if failure.where:
            yield f"{failure.name} fell short at {failure.where}"
        if failure.foreign is not None:
            yield f"accepted by {failure.foreign.by}, which counts for that user alone: {failure.name}"
    for failure in judgment.accepted:
        by = failure.accepted
        yield f"accepted by {by.by if by is not None else ''}: {failure.name}: {'; '.join(failure.lines)}"
    for check in judgment.unchecked:
        yield f"not checked: {check.file} ({check.kind}): {check.not_checked}"
    for entry in verification.elsewhere:
        grade = describe_agreement(entry).grade
        yield f"measured before: {entry.artifact.file} on {entry.backend} ({entry.place_title}): {grade}"
    for looser in judgment.looser:
        yield f"looser than the default: {looser}"
    for one in verification.not_run:
        yield f"not run: {one.what}: {one.reason}"


def _name_entries(verification: Verification) -> set[str]:
    return {f"{entry.artifact.file} on {entry.backend}" for entry in verification.entries}


def describe_judgment(judgment: Judgment) -> dict[str, object]:
    """The verdict for programs."""
    return {
        "verdict": judgment.verdict,
        "verdict_text": judgment.describe(),
        "passed": judgment.verdict == "verified",
        "failures": [failure.name for failure in judgment.failures],
        "findings": [
            {
                "name": one.name,
                "file": one.file,
                "kind": one.kind,
                "lines": list(one.lines),
                "where": one.where,
                "found_at": one.when,
            }
            for one in judgment.failures
        ],
        "accepted": [
            {"name": one.name, **one.accepted.model_dump(mode="json", include={"what", "by", "accepted_at"})}
            for one in judgment.accepted
            if one.accepted is not None
        ],
        "thresholds_looser_than_default": [str(looser) for looser in judgment.looser],
    }


def show_bisection(output: Output, bisection: Bisection) -> None:
    """Where a graph begins to compute something else, and the error before and after."""
    output.show(bisection.describe())


def _make_table(title: str, entries: Sequence[CertificateEntry]) -> Table:
    """One row for each entry: the input nearest to what it is allowed, or furthest beyond."""
    from rich.table import Table

    from sr_deploy.bundle.shortfall import find_worst
    from sr_deploy.verification.agreement import describe_agreement

    table = Table(title=f"{title} against {entries[0].reference}", title_justify="left")
    table.add_column("artifact", no_wrap=True)
    table.add_column("runs on", no_wrap=True)
    for name in ("max abs", "allowed", "PSNR", "needed", "margin", "8 bit off", "by > 1"):
        table.add_column(name, justify="right")
    table.add_column("")
    for entry in entries:
        furthest, noisiest = find_worst(entry)
        limit, floor = entry.limit_of(furthest), entry.floor_of(noisiest)
        table.add_row(
            entry.artifact.file,
            entry.backend,
            f"{furthest.max_abs:.1e}" if furthest.max_abs else "0",
            "" if math.isinf(limit) else f"{limit:.0e}",
            "equal" if noisiest.psnr_db is None else f"{noisiest.psnr_db:.1f} dB",
            f"{floor:.0f} dB" if floor else "",
            describe_margin(entry),
            f"{max(one.changed_8bit for one in entry.judged_measurements):.2%}",
            f"{max(one.changed_8bit_more or 0 for one in entry.judged_measurements):.2%}",
            describe_agreement(entry).grade,
        )
    return table


def _make_error_budget(budget: ErrorBudget) -> Table:
    from rich.table import Table

    worst = budget.worst_stage
    said = f"{worst.name} loses most" if worst.lost_db > 0 else "nothing is lost"
    table = Table(title=f"error budget by stage, {budget.precision}, {budget.inputs}: {said}", title_justify="left")
    table.add_column("stage", no_wrap=True)
    table.add_column("what ran", no_wrap=True)
    for name in ("to PyTorch", "to stage before", "to photographs", "lost"):
        table.add_column(name, justify="right", no_wrap=True)
    for number, stage in enumerate(budget.stages):
        figures = (stage.psnr_db, stage.step_psnr_db, stage.truth_psnr_db)
        cells = [
            "equal" if one is None else f"{one:.{digits}f} dB" for one, digits in zip(figures, (1, 1, 3), strict=True)
        ]
        table.add_row(stage.name, stage.runs, *cells, f"{stage.lost_db:+.4f} dB" if number else "")
    return table


def describe_margin(entry: CertificateEntry) -> str:
    """The smallest distance to a threshold, as in `+29.1 dB`; negative: missed."""
    from sr_deploy.verification.agreement import measure_margin

    margin = measure_margin(entry)
    return "" if margin is None else f"{margin:+.1f} dB"


def _describe_figures(entries: Sequence[CertificateEntry]) -> list[str]:
    """What was shown, and for each precision that more than one backend measured, the figure that counts: the worst."""
    from sr_deploy.backends import PRECISIONS
    from sr_deploy.bundle.shortfall import describe_allowance
    from sr_deploy.verification.agreement import describe_agreement
    from sr_deploy.verification.entry import worst_entry

    shapes = dict.fromkeys(one.shape for entry in entries for one in entry.measurements)
    contents = dict.fromkeys(one.content for entry in entries for one in entry.measurements)
    lines = [f"inputs: {', '.join(contents)} in shapes {', '.join(shapes)}; the worst of each is shown"]
    left_out: dict[str, list[str]] = {}
    for entry in entries:
        for line in entry.left_out:
            left_out.setdefault(line, []).append(entry.backend)
    lines += [f"left out on {', '.join(backends)}: {line}" for line, backends in left_out.items()]
    lines += [
        f"{entry.backend} is allowed {allowance}" for entry in entries if (allowance := describe_allowance(entry))
    ]
    lines += _describe_stand_ins(entries)
    lines += [
        f"{entry.backend} loses {entry.drop_db:+.3f} dB against photographs at least, within the budget of the graph"
        for entry in entries
        if entry.drop_db is not None and entry.passed
    ]
    lines += [
        f"{entry.backend} is judged on {' and '.join(entry.judged)}, which its ranges were calibrated for"
        for entry in entries
        if entry.judged
    ]
    lines += [
        f"{entry.backend} rewrites {entry.artifact.file} when it opens it: {', '.join(entry.rewrites)}"
        for entry in entries
        if entry.rewrites
    ]
    lines += [
        f"{entry.backend} passes its thresholds with {agreement.words}"
        for entry in entries
        if (agreement := describe_agreement(entry)).grade == "passes"
    ]
    for precision in PRECISIONS:
        worst = worst_entry(entries, precision)
        if worst is not None and sum(entry.precision == precision for entry in entries) > 1:
            psnr = "equal" if worst.worst_psnr_db is None else f"{worst.worst_psnr_db:.1f} dB"
            lines.append(f"{precision} figure: {psnr}, max abs {worst.worst_max_abs:.1e} ({worst.backend}, the worst)")
    return lines


def _describe_stand_ins(entries: Sequence[CertificateEntry]) -> list[str]:
    """Inputs that were compared with another reference than the others."""
    found: dict[str, list[str]] = {}
    for one in (one for entry in entries for one in entry.measurements):
        if one.reference is not None:
            found.setdefault(one.reference, []).append(one.shape)
    why = "since float64 takes too much time or memory there"
    return [f"compared with {one}, {why}: {', '.join(dict.fromkeys(shapes))}" for one, shapes in found.items()]
