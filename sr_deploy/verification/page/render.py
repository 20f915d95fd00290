"""Puts the page together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sr_deploy.bundle import Check, ErrorBudget, FileRecord
from sr_deploy.files import write_text
from sr_deploy.page.html import bars, escape, make_page, table, verdict
from sr_deploy.page.slider import read_script
from sr_deploy.verification.page.content import PageContent
from sr_deploy.verification.page.crops import show_crops
from sr_deploy.verification.page.header import show_coverage, show_facts, show_header, show_holdings
from sr_deploy.verification.page.measured import show_entries, show_maps


def write_page(content: PageContent, path: Path) -> None:
    """Write the page, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(path, render_page(content))


def render_page(content: PageContent) -> str:
    """The page as text: styles, script and pictures inside, nothing fetched from anywhere."""
    sections = (
        show_header(content),
        show_holdings(content),
        show_coverage(content),
        show_facts(content),
        show_entries(content),
        _show_error_budgets(content.certificate.error_budgets),
        show_crops(content.crops, ran=bool(content.ran_now)),
        show_maps(content),
        _show_checks(content.certificate.checks),
        _show_files(content.files),
    )
    return make_page(f"Certificate: {content.title}", sections, read_script())


def show_lost(lost_db: float) -> str:
    """As in `0.0213 dB`; what was gained by chance has a plus sign."""
    rounded = round(lost_db, 4)
    return f"+{-rounded:.4f} dB" if rounded < 0 else f"{abs(rounded):.4f} dB"


def _show_error_budgets(error_budgets: Sequence[ErrorBudget]) -> str:
    parts = []
    greatest = max((abs(stage.lost_db) for budget in error_budgets for stage in budget.stages), default=0.0)
    for budget in error_budgets:
        rows = [
            [
                escape(stage.name),
                escape(stage.runs),
                "equal" if stage.psnr_db is None else f"{stage.psnr_db:.1f} dB",
                "equal" if stage.step_psnr_db is None else f"{stage.step_psnr_db:.1f} dB",
                "equal" if stage.truth_psnr_db is None else f"{stage.truth_psnr_db:.3f} dB",
                show_lost(stage.lost_db) if number else "",
            ]
            for number, stage in enumerate(budget.stages)
        ]
        header = ["stage", "what ran", "to PyTorch", "to the stage before", "to the photographs", "lost"]
        plot = bars(
            [(stage.name, stage.lost_db, show_lost(stage.lost_db)) for stage in budget.stages[1:]],
            f"dB lost in each stage of the {budget.precision} chain",
            greatest,
        )
        worst = budget.worst_stage
        said = f"{worst.name} loses most, {worst.lost_db:.4f} dB" if worst.lost_db > 0 else "no stage loses anything"
        parts.append(
            f"<h3>{escape(budget.precision)} on {escape(budget.machine)}, {escape(budget.inputs)}: {escape(said)}</h3>"
            f"{table(header, rows, numbers=range(2, 6))}{plot}"
        )
    if not parts:
        return ""
    return (
        "<h2>Error budget by stage</h2><p>The same photographs through every stage from the trained network to the "
        "file on disk. Lost is what it takes from the PSNR against the original photographs.</p>" + "".join(parts)
    )


def _show_checks(checks: Sequence[Check]) -> str:
    if not checks:
        return ""
    rows = [
        [
            f"<code>{escape(check.file)}</code>",
            escape(check.kind),
            escape(check.what) + "".join(f'<br><span class="bad">{escape(line)}</span>' for line in check.findings),
            verdict(check.passed),
        ]
        for check in checks
    ]
    return f"<h2>What is in the files</h2>{table(['file', 'looked at', 'what', ''], rows)}"


def _show_files(artifacts: Sequence[FileRecord]) -> str:
    if not artifacts:
        return ""
    rows = [[f"<code>{escape(one.file)}</code>", f"<code>{escape(one.sha256)}</code>"] for one in artifacts]
    return f"<h2>Files</h2>{table(['file', 'sha256'], rows)}"
