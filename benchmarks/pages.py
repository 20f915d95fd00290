"""What scripts of this folder write: results, and pages with their heads and tables, between marks that name them."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from sr_deploy.files import write_text
from sr_deploy.measure.machine import describe_machine, tool_versions

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def describe_command() -> str:
    """The command that is running, without the folders that are this machine's own."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def describe_run(*packages: str) -> dict[str, object]:
    """Machine, versions of those of the packages that are installed, day and command of what is running now."""
    versions = tool_versions()
    return {
        "machine": describe_machine().title(),
        "versions": ", ".join(f"{name} {versions[name]}" for name in packages if name in versions),
        "date": datetime.now(UTC).date().isoformat(),
        "command": describe_command(),
    }


def write_results(path: Path, document: Mapping[str, object], page: str) -> None:
    """Write PATH.json and PATH.md."""
    write_text(path.with_suffix(".json"), json.dumps(document, indent=1) + "\n")
    write_text(path.with_suffix(".md"), page)


def make_table(header: str, rows: Iterable[Iterable[object]], text: Collection[int] = (0,)) -> list[str]:
    """The lines of a table.

    Args:
        header: names of the columns, as in `backend | time`.
        rows: cells of each row.
        text: numbers of the columns that hold text; all others are aligned to the right.
    """
    marks = "|".join("---" if number in text else "---:" for number in range(header.count("|") + 1))
    return [f"| {header} |", f"|{marks}|", *(f"| {' | '.join(map(str, row))} |" for row in rows)]


def head_lines(title: str, script: str, facts: Mapping[str, object]) -> list[str]:
    """How a page of results begins: title, the script (with options) that writes it, what holds for the whole run."""
    origin = f"Written by `benchmarks/{script}`; do not edit."
    return [f"# {title}", "", origin, "", *(f"- {name}: {fact}" for name, fact in facts.items()), ""]


def replace_table(name: str, text: str, path: Path = PAGE) -> None:
    """Put `text` between `<!-- NAME -->` and `<!-- end of NAME -->`."""
    page = path.read_text(encoding="utf-8")
    before, start, rest = page.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->")
    if not start or not end:
        raise SystemExit(f"{path} has no place for the table {name!r}")
    write_text(path, f"{before}{start}{text.rstrip()}\n{end}{after}")
