"""Rules that hold for every file that is committed."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = re.compile(r"(?<![\w./])/(?:work|farm|root|home|tmp/\w)|\.\./shared")


def tracked_files():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\n") if name and (ROOT / name).is_file()]


def test_no_path_of_one_machine_is_committed():
    allowed = {ROOT / ".ci" / "run", Path(__file__)}
    found = []
    for path in tracked_files():
        content = path.read_bytes()
        if path in allowed or b"\0" in content:  # pictures, weights, films
            continue
        lines = content.decode(encoding="utf-8").splitlines()
        found += [f"{path.relative_to(ROOT)}:{n}: {line}" for n, line in enumerate(lines, 1) if FORBIDDEN.search(line)]
    assert found == []


def test_spelling_is_american():
    british = re.compile(
        r"(?:equal|general|initial|minim|normal|optim|quant|random|recogn|serial|summar)is(?:e|ing|ation)"
        r"|artefact|behaviour|centre|(?<!sr_deploy\.)colour|judgement|neighbour",  # that one is in published graphs
        re.IGNORECASE,
    )
    found = []
    for path in tracked_files():
        if path.suffix in {".py", ".md", ".toml"} and path != Path(__file__):
            lines = path.read_text(encoding="utf-8").splitlines()
            found += [
                f"{path.relative_to(ROOT)}:{n}: {line}" for n, line in enumerate(lines, 1) if british.search(line)
            ]
    assert found == []


def test_links_between_pages_lead_somewhere():
    broken = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith("http") and not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []
