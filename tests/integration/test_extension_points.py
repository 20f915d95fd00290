"""What another package brings, in one file, goes through the whole chain by its name: as CONTRIBUTING.md says."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sr_deploy.arch import registry
from sr_deploy.cli import main
from sr_deploy.imaging.codec import read_image
from sr_deploy.train.losses import registry as losses
from sr_deploy.train.metrics import read_metrics

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "CONTRIBUTING.md"


def read_blocks(heading: str) -> list[str]:
    """The blocks of code below a heading of the guide, in their order."""
    section = GUIDE.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```\w+\n(.*?)```", section, re.DOTALL)


def install(folder: Path, project: str, text: str) -> None:
    """Put a distribution into `folder` that brings one module and names it in an entry point, as `project` has it."""
    ((group, points),) = tomllib.loads(project)["project"]["entry-points"].items()
    ((name, module),) = points.items()
    (folder / f"{module}.py").write_text(text)
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return folder


def test_an_architecture_is_one_file(site, pictures, tmp_path, monkeypatch, capsys):
    project, module, recipe, commands = read_blocks("Add an architecture")
    install(site, project, module)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pictures, tmp_path / "pictures")
    (tmp_path / "toy.toml").write_text(recipe)
    registry._find_modules.cache_clear()
    try:
        assert main(["train", "toy.toml", "--set", "network.witdh=3"]) == 1
        assert "unknown key 'network.witdh' (did you mean 'width'?)" in capsys.readouterr().err
        for command in commands.splitlines():
            assert main(shlex.split(command)[1:]) == 0, command
        assert read_image(tmp_path / "out.png").shape == (144, 176, 3)
        capsys.readouterr()
        assert main(["info", "runs/toy", "--json"]) == 0
        network = json.loads(capsys.readouterr().out)
        assert network["arch"] == {"architecture": "twoconv", "scale": 2, "channels": 3, "width": 12}
    finally:
        registry._find_modules.cache_clear()
        registry.get_architecture.cache_clear()


def test_a_loss_is_one_file(site, pictures, tmp_path, monkeypatch, capsys):
    project, module, recipe, commands, check = read_blocks("Add a loss")
    install(site, project, module)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pictures, tmp_path / "pictures")
    (tmp_path / "spectra.toml").write_text(recipe)
    losses._find_modules.cache_clear()
    try:
        assert main(["train", "spectra.toml", "--set", "loss.spectrum.powr=3"]) == 1
        assert "unknown key 'loss.spectrum.powr' (did you mean 'power'?)" in capsys.readouterr().err
        for command in commands.splitlines():
            assert main(shlex.split(command)[1:]) == 0, command
    finally:
        losses._find_modules.cache_clear()
        losses.get_loss.cache_clear()
    logged = [line for line in read_metrics(Path("runs/spectra")) if line["kind"] == "training"]
    assert [line["step"] for line in logged] == [2, 4, 6]
    for line in logged:
        assert line["spectrum"] > 0
        assert line["loss"] == pytest.approx(line["pixel"] + line["spectrum"], rel=1e-5)
    assert "<!-- spectrum -->" in (tmp_path / "curves.svg").read_text()
    assert "[loss.spectrum]\nweight = 0.1\npower = 1.0\n" in Path("runs/spectra/recipe.toml").read_text()

    # In the checkout, which is not among the paths of a test that started elsewhere.
    words = [sys.executable, *shlex.split(check)[1:], "-p", "no:cacheprovider"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b6 passed", done.stdout), done.stdout  # three tests for each of two examples
