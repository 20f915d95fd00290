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
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import sr_deploy
from sr_deploy.arch import registry
from sr_deploy.backends import registry as backends
from sr_deploy.cli import main
from sr_deploy.imaging.codec import read_image
from sr_deploy.plugins import find_modules
from sr_deploy.train.losses import registry as losses
from sr_deploy.train.metrics import read_metrics

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "CONTRIBUTING.md"

# One process for all commands, as imports take longest; prints the exit code of each and what it said.
RUN_COMMANDS = """
import contextlib, io, json, shlex, sys
from sr_deploy.cli import main
ends = []
for command in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        ends.append((main(shlex.split(command)[1:]), said))
print(json.dumps([(code, said.getvalue()) for code, said in ends]))
"""


def read_blocks(heading: str) -> list[str]:
    """The blocks of code below a heading of the guide, in their order."""
    section = GUIDE.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```\w+\n(.*?)```", section, re.DOTALL)


def install(folder: Path, project: str, text: str) -> None:
    """Put a distribution into `folder` that brings one module and names it in an entry point, as `project` has it."""
    ((group, points),) = tomllib.loads(project)["project"]["entry-points"].items()
    ((name, module),) = points.items()
    (folder / f"{module}.py").write_text(text)
    metadata = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of packages; what was found before is looked for anew, and again afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    known = find_modules, registry.get_architecture, backends.list_backends, losses.get_loss
    for one in known:
        one.cache_clear()
    yield folder
    for one in known:
        one.cache_clear()


@pytest.fixture
def here(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with pictures."""
    shutil.copytree(pictures, tmp_path / "pictures")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_architecture_is_one_file(site, here, capsys):
    project, module, recipe, commands = read_blocks("Add an architecture")
    install(site, project, module)
    (here / "toy.toml").write_text(recipe)
    assert main(["train", "toy.toml", "--set", "network.witdh=3"]) == 1
    assert "unknown key 'network.witdh' (did you mean 'width'?)" in capsys.readouterr().err
    for command in commands.splitlines():
        assert main(shlex.split(command)[1:]) == 0, command
    assert read_image(here / "out.png").shape == (144, 176, 3)
    capsys.readouterr()
    assert main(["info", "runs/toy", "--json"]) == 0
    network = json.loads(capsys.readouterr().out)
    assert network["arch"] == {"architecture": "twoconv", "scale": 2, "channels": 3, "width": 12}


def test_a_backend_is_one_file(site, here, write_gentle_network, capsys):
    project, module, commands = read_blocks("Add a backend")
    install(site, project, module)
    weights = write_gentle_network(here / "tiny.safetensors", 4, 1)
    assert main(["export", str(weights), "--out", "deployments/demo", "--backend", "none"]) == 0
    said = {}
    for command in commands.splitlines():
        words = shlex.split(command)[1:]
        capsys.readouterr()
        assert main([*words, "--json"]) == 0, command
        said[words[0]] = json.loads(capsys.readouterr().out)
    (line,) = [one for one in said["doctor"]["backends"] if one["name"] == "onnx-reference"]
    assert (line["version"], line["runs"], line["builds"]) == (onnx.__version__, ["cpu fp32"], None)
    (entry,) = [one for one in said["verify"]["entries"] if one["backend"] == "onnx-reference:fp32"]
    assert entry["passed"]
    assert entry["artifact"]["file"] == "model.fp32.onnx"
    assert 0 < entry["worst_max_abs"] < 1e-5
    (result,) = [one for one in said["bench"]["results"] if one["candidate"] == "onnx-reference:fp32"]
    assert result["parity"]["verified"]
    assert main(["upscale", "pictures/0.png", "by_torch.png", "--model", str(weights), "--backend", "torch"]) == 0
    apart = read_image(here / "out.png").astype(int) - read_image(here / "by_torch.png")
    assert np.abs(apart).max() <= 1


def test_a_backend_that_calls_itself_otherwise_is_refused(site, capsys):
    project, module, _ = read_blocks("Add a backend")
    install(site, project.replace("onnx-reference =", "numpy ="), module)
    assert main(["doctor"]) == 1
    said = capsys.readouterr().err
    assert "onnx_reference_backend.BACKEND has the name 'onnx-reference', and its entry point 'numpy'" in said


def test_a_loss_is_one_file(site, here, capsys):
    project, module, recipe, commands, check = read_blocks("Add a loss")
    install(site, project, module)
    (here / "spectra.toml").write_text(recipe)
    assert main(["train", "spectra.toml", "--set", "loss.spectrum.powr=3"]) == 1
    assert "unknown key 'loss.spectrum.powr' (did you mean 'power'?)" in capsys.readouterr().err
    for command in commands.splitlines():
        assert main(shlex.split(command)[1:]) == 0, command
    logged = [line for line in read_metrics(Path("runs/spectra")) if line["kind"] == "training"]
    assert [line["step"] for line in logged] == [2, 4, 6]
    for line in logged:
        assert line["spectrum"] > 0
        assert line["loss"] == pytest.approx(line["pixel"] + line["spectrum"], rel=1e-5)
    assert ">spectrum</text>" in (here / "curves.svg").read_text()
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

    # Each with what its end has to be, and a part of what it says.
    cases = [(command, 0, "") for command in [*commands.splitlines(), "sr-deploy upscale in.png expected.png"]]
    cases += [
        ("sr-deploy upscale --help", 0, ".ppm"),
        ("sr-deploy upscale cut.ppm other.ppm", 1, "is a damaged PPM file"),
        ("sr-deploy upscale in.png --stream other.ppm", 1, "PPM is encoded whole"),
        ("sr-deploy upscale in.ppm out.ppm --quality 5", 1, "PPM"),
    ]
    (here / "cut.ppm").write_bytes((here / "in.ppm").read_bytes()[:-1])
    words = [sys.executable, "-c", RUN_COMMANDS, *(command for command, _, _ in cases)]
    environment = {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "500"}
    done = subprocess.run(words, cwd=here, env=environment, capture_output=True, text=True, check=True)
    for (command, code, part), (found, said) in zip(cases, json.loads(done.stdout), strict=True):
        assert found == code, (command, said)
        assert part in said, command
    expected = np.asarray(Image.open(here / "expected.png"))
    for name in ("out.ppm", "out.png"):
        assert np.array_equal(np.asarray(Image.open(here / name)), expected), name
    assert {path.suffix for path in (here / "larger").iterdir() if path.name[0] != "."} == {".ppm"}
