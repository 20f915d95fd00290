"""All that commands say goes through one place, which makes it legible."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "sr_deploy"
VOICE = {"cli/output.py", "cli/streams.py"}
WORKERS = {
    *("backends/tensorrt/build_worker.py", "backends/tensorrt/progress.py"),
    *("bench/worker.py", "gpus.py", "measure/peak.py"),
}
"""Processes whose stdout and stderr are read by the one that started them."""


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
