"""The files for contributors' platforms say nothing that is not there."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
yaml = pytest.importorskip("yaml")


def read_jobs():
    return yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]


def test_jobs_run_commands_that_exist():
    targets = set(re.findall(r"^([a-z-]+|\$\(VENV\)/\.installed):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    targets |= {".venv/.installed"}
    runs = [step["run"] for job in read_jobs().values() for step in job["steps"] if "run" in step]
    made = {word for run in runs for word in re.findall(r"\bmake (\S+)", run)}
    assert made == {"test", "test-slow", ".venv/.installed"} <= targets
    assert any("sr-deploy verify small-x2" in run for run in runs)


def test_pythons_are_those_that_the_package_takes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pythons = read_jobs()["test"]["strategy"]["matrix"]["python"]
    assert project["requires-python"] == f">={pythons[0]}"
    stated = [line.rsplit(" ", 1)[1] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert set(stated) <= set(pythons)


def test_hooks_are_the_checks_of_the_makefile():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = {Path(hook["entry"].split()[0]).name for hook in repository["hooks"]}
    makefile = (ROOT / "Makefile").read_text().split("\ncheck:")[1].split("\n\n")[0]
    assert hooks == set(re.findall(r"\$\(BIN\)/(\S+)", makefile)) == {"ruff", "mypy", "lint-imports"}
