"""What scripts of this folder put into pages: their heads, and tables between marks that name them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from sr_deploy.files import write_text

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def describe_command() -> str:
    """The command that is running, without the folders that are this machine's own."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


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
