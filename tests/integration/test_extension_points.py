"""What is added as CONTRIBUTING.md says goes through the whole chain by its name."""

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

import numpy as np
import pytest
from PIL import Image

import sr_deploy
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
    assert ">spectrum</text>" in (tmp_path / "curves.svg").read_text()
    assert "[loss.spectrum]\nweight = 0.1\npower = 1.0\n" in Path("runs/spectra/recipe.toml").read_text()

    # In the checkout, which is not among the paths of a test that started elsewhere.
    words = [sys.executable, *shlex.split(check)[1:], "-p", "no:cacheprovider"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b6 passed", done.stdout), done.stdout  # three tests for each of two examples


def test_an_image_format_is_one_entry(pictures, tmp_path, monkeypatch):
    """In a copy of the package, as the guide edits its files."""
    module, entry, commands = read_blocks("Add an image format")
    site = tmp_path / "site"
    package = Path(sr_deploy.__file__).parent
    shutil.copytree(package, site / "sr_deploy", ignore=shutil.ignore_patterns("__pycache__"))
    (site / "sr_deploy/imaging/ppm.py").write_text(module)
    table = site / "sr_deploy/imaging/formats.py"
    before, after = table.read_text().split("\nFORMATS = (\n")
    table.write_text(f"{before}\nFORMATS = (\n{entry.rstrip()},\n{after}")
    here = tmp_path / "here"
    shutil.copytree(pictures, here / "pictures")
    image = np.asarray(Image.open(here / "pictures/0.png").convert("RGB"))[:21, :30]
    Image.fromarray(image).save(here / "in.ppm")
    Image.fromarray(image).save(here / "in.png")

    def run(command: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "sr_deploy", *shlex.split(command)[1:]]
        environment = {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "500"}
        return subprocess.run(words, cwd=here, env=environment, capture_output=True, text=True, check=False)

    for command in [*commands.splitlines(), "sr-deploy upscale in.png expected.png"]:
        done = run(command)
        assert done.returncode == 0, done.stderr
    expected = np.asarray(Image.open(here / "expected.png"))
    for name in ("out.ppm", "out.png"):
        assert np.array_equal(np.asarray(Image.open(here / name)), expected), name
    assert {path.suffix for path in (here / "larger").iterdir() if path.name[0] != "."} == {".ppm"}
    shown = run("sr-deploy upscale --help").stdout
    assert ".ppm" in shown
    (here / "cut.ppm").write_bytes((here / "in.ppm").read_bytes()[:-1])
    for source, said in (("cut.ppm", "is a damaged PPM file"), ("in.png --stream", "PPM is encoded whole")):
        done = run(f"sr-deploy upscale {source} other.ppm")
        assert done.returncode == 1
        assert said in done.stderr
    assert "PPM" in run("sr-deploy upscale in.ppm out.ppm --quality 5").stderr
