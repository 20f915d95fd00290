"""All that commands say goes through one place, which makes it legible."""

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "sr_deploy"
VOICE = {"cli/output.py", "cli/streams.py"}
WORKERS = {
    *("backends/tensorrt/build_worker.py", "backends/tensorrt/progress.py"),
    *("bench/worker.py", "gpus.py", "measure/peak.py"),
}
"""Processes whose stdout and stderr are read by the one that started them."""
CALLBACKS = {
    "bench/entry.py: Callable[[int], None]",
    "bench/statistics.py: Callable[[int], None]",
    "cli/output.py: Callable[[str], None]",
    "cli/streams.py: Callable[[str], None]",
    "measure/rounds.py: Callable[[int], None]",
    "train/update.py: Callable[[str], None]",
}
"""Functions that take words or numbers and give nothing: counters of rounds, the way of lines to a terminal, marks for
who times the phases of a step. None of them tells a caller what is going on."""


def test_only_the_output_layer_prints():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name in VOICE | WORKERS:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            said = ast.unparse(node) if isinstance(node, ast.Call | ast.Attribute | ast.ImportFrom) else ""
            prints = isinstance(node, ast.Call) and said.startswith(("print(", "click.echo(", "typer.secho("))
            streams = isinstance(node, ast.Attribute) and said in ("sys.stdout", "sys.stderr", "sys.__stderr__")
            rich = (
                isinstance(node, ast.ImportFrom)
                and (node.module or "").startswith("rich")
                and node.module != "rich.table"
            )
            if prints or streams or rich:
                found.append(f"{name}:{node.lineno}: {said}")
    assert found == []


def test_what_is_said_goes_through_logging_and_progress_through_one_type():
    """A new callback for lines or counts is a `Progress` or a line of the log instead."""
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            said = ast.unparse(node) if isinstance(node, ast.Subscript) else ""
            taken = re.fullmatch(r"(?:[\w.]+\.)?Callable\[\[(.*)\], None\]", said)
            kinds = set(re.findall(r"\w+", taken[1])) if taken else set()
            if kinds and (kinds <= {"str", "int", "float", "bool", "None"} or "Progress" in kinds):
                found.add(f"{name}: {said}")
    assert found == CALLBACKS | {"progress.py: Callable[[Progress], None]"}
