"""What another package brings, in one file, goes through the whole chain by its name: as CONTRIBUTING.md says."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from sr_deploy.arch import registry
from sr_deploy.backends import registry as backends
from sr_deploy.cli import main
from sr_deploy.imaging.codec import read_image

GUIDE = Path(__file__).parents[2] / "CONTRIBUTING.md"


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
    known = (registry._find_modules, registry.get_architecture, backends._find_modules, backends.list_backends)
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
