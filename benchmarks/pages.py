"""What scripts of this folder put into pages: tables, each between marks that name it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from sr_deploy.files import write_text

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def describe_command() -> str:
    """The command that is running, without the folders that are this machine's own."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def replace_table(name: str, text: str, path: Path = PAGE) -> None:
    """Put `text` between `<!-- NAME -->` and `<!-- end of NAME -->`."""
    page = path.read_text(encoding="utf-8")
    before, start, rest = page.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->")
    if not start or not end:
        raise SystemExit(f"{path} has no place for the table {name!r}")
    write_text(path, f"{before}{start}{text.rstrip()}\n{end}{after}")
