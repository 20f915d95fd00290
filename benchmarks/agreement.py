"""Whether two runs of the scenarios on one machine agree; `run_all.py --agree DIR` writes it."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pages import describe_command, make_table, replace_table

from sr_deploy.bench.compare import compare_reports, is_apart
from sr_deploy.bench.report import BenchReport, read_report
from sr_deploy.files import write_text

PAGE = Path(__file__).parents[1] / "docs" / "benchmarking.md"


@dataclass(frozen=True)
class Agreement:
    """Two reports of one scenario."""

    scenario: str
    """Its name."""
    medians: int
    """Candidates times shapes in both."""
    pairs: int
    """Of candidates on one shape."""
    apart: int
    """Pairs that lie beyond their spreads in both runs: they have a ranking."""
    flips: tuple[str, ...]
    """Of these, the ones whose order changed."""
    median_change_percent: float
    """Difference of a median between the runs: the middle one of them all, without sign."""
    greatest_change_percent: float
    """The greatest of them."""


def find_agreement(name: str, first: BenchReport, second: BenchReport) -> Agreement:
    """Compare two runs of a scenario.

    Raises:
        InputError: other machines or inputs.
    """
    comparison = compare_reports(first, second)
    changes = [abs(one.change_percent) for one in comparison.changes if one.change_percent is not None]
    reports = [{(one.shape, one.candidate): one for one in report.results} for report in (first, second)]
    shared = [place for place in reports[0] if place in reports[1]]
    pairs = [pair for pair in itertools.combinations(shared, 2) if pair[0][0] == pair[1][0]]
    apart = [(one, two) for one, two in pairs if all(is_apart(report[one], report[two]) for report in reports)]
    return Agreement(
        scenario=name,
        medians=len(changes),
        pairs=len(pairs),
        apart=len(apart),
        flips=comparison.flips,
        median_change_percent=statistics.median(changes),
        greatest_change_percent=max(changes),
    )


def write_agreement(results: Path, again: Path, names: Sequence[str]) -> None:
    """Compare the reports of two folders; writes `agreement.json` into the first, and the table of the page."""
    rows, machines = [], []
    for name in names:
        if not (again / f"{name}.json").is_file():
            continue  # it was not run again
        first, second = (read_report(folder / f"{name}.json") for folder in (results, again))
        rows.append(find_agreement(name, first, second))
        machines.append(f"{first.machine.title()}; {first.measured_at[:10]} and {second.measured_at[:10]}")
    place = "; ".join(dict.fromkeys(machines))
    document = {"command": describe_command(), "where": place, "scenarios": [asdict(row) for row in rows]}
    write_text(results / "agreement.json", json.dumps(document, indent=1) + "\n")
    replace_table("agreement", "\n".join([*_format_rows(rows), "", f"{place}; `{describe_command()}`."]), PAGE)


def _format_rows(rows: Sequence[Agreement]) -> list[str]:
    header = (
        "scenario | medians | pairs of candidates | beyond their spreads both times | order changed | "
        "a median changed by, middle (greatest)"
    )
    cells = [
        (*(row.scenario, row.medians, row.pairs, row.apart, len(row.flips)),
         f"{row.median_change_percent:.1f} % ({row.greatest_change_percent:.1f} %)")
        for row in rows
    ]  # fmt: skip
    return [*make_table(header, cells), *(f"- {row.scenario}, {flip}" for row in rows for flip in row.flips)]
