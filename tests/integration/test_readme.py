"""The README's commands do what it shows, on a demo that was shrunk to seconds."""

import importlib.util
import json
import shlex
from pathlib import Path

import pytest

from sr_deploy.cli import main

ROOT = Path(__file__).parents[2]
SHRUNK = [
    *("--set", "run.steps=30"),
    *("--set", "run.validate_every=30"),
    *("--set", "run.preview_every=30"),
    *("--set", "network.features=16"),
    *("--set", "network.blocks=2"),
    *("--set", "data.batch=4"),
    *("--set", "data.patch_size=64"),
    *("--set", 'precision.autocast="off"'),
]


def load_script():
    location = importlib.util.spec_from_file_location("update_readme", ROOT / "benchmarks" / "update_readme.py")
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script():
    return load_script()


@pytest.fixture(scope="module")
def commands(script):
    blocks = script.read_commands((ROOT / "README.md").read_text())
    return [command for block in blocks for command in block]


def test_first_screen_shows_the_five_commands_in_the_order_that_works(commands):
    assert [shlex.split(command)[1] for command in commands] == ["train", "export", "bench", "verify", "upscale"]


def test_commands_run_in_their_order(script, commands, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    script.write_photograph(tmp_path)
    printed = {}
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "sr-deploy"
        assert main([*words, *(SHRUNK if words[0] == "train" else [])]) == 0, capsys.readouterr().err
        printed[words[0]] = capsys.readouterr().out

    run = json.loads((tmp_path / "runs" / "demo" / "run.json").read_text())
    assert run["step"] == 30
    assert "bicubic" in printed["train"]

    bundle = tmp_path / "deployments" / "demo"
    certificate = json.loads((bundle / "certificate.json").read_text())
    artefacts = {entry["artefact"]["file"] for entry in certificate["entries"]}
    assert artefacts >= {"model.fp32.onnx", "model.fp16.onnx"}
    assert all(entry["passed"] for entry in certificate["entries"])
    assert "model.fp16.onnx" in printed["export"]
    assert "onnxruntime" in printed["bench"]
    assert "torch" in printed["bench"]
    assert printed["verify"].rstrip().endswith("verified")

    from sr_deploy.imaging.codec import read_image

    before, after = read_image(tmp_path / "photo.jpg"), read_image(tmp_path / "photo_x4.png")
    assert after.shape == (before.shape[0] * 4, before.shape[1] * 4, 3)
