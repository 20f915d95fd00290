"""The README's commands do what it shows, on a demo and a benchmark that were shrunk to seconds."""

import importlib.util
import json
import re
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
MORE_WORDS = {"train": SHRUNK, "bench": ["--seconds", "0.1"]}


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
    return script.read_commands((ROOT / "README.md").read_text())


def test_first_screen_shows_the_five_commands_in_the_order_that_works(commands):
    assert [shlex.split(command)[1] for command in commands] == ["train", "export", "bench", "verify", "upscale"]


def test_commands_run_in_their_order(script, commands, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    script.write_photograph(tmp_path)
    printed = {}
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "sr-deploy"
        assert main([*words, *MORE_WORDS.get(words[0], [])]) == 0, capsys.readouterr().err
        printed[words[0]] = capsys.readouterr().out

    run = json.loads((tmp_path / "runs" / "demo" / "run.json").read_text())
    assert run["step"] == 30
    assert "bicubic" in printed["train"]

    bundle = tmp_path / "deployments" / "demo"
    certificate = json.loads((bundle / "certificate.json").read_text())
    artifacts = {entry["artifact"]["file"] for entry in certificate["entries"]}
    assert artifacts >= {"model.fp32.onnx", "model.fp16.onnx"}
    assert all(entry["passed"] for entry in certificate["entries"])
    assert "model.fp16.onnx" in printed["export"]
    assert "onnxruntime" in printed["bench"]
    assert "torch" in printed["bench"]
    verdict = printed["verify"].rstrip().splitlines()[-1]
    assert verdict == "verified" or verdict.startswith(
        "verified: graphs; not run: "
    )  # as there are engines, and no GPU

    from sr_deploy.imaging.codec import read_image

    before, after = read_image(tmp_path / "photo.jpg"), read_image(tmp_path / "photo_x4.png")
    assert after.shape == (before.shape[0] * 4, before.shape[1] * 4, 3)

    # The Python page speaks of the same folder.
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL):
        exec(compile(block, "docs/python.md", "exec"), {})
    assert "model.fp16.onnx" in capsys.readouterr().out
    assert (read_image(tmp_path / "photo_python.png") == after).all()


def test_table_of_the_first_screen_names_machine_versions_and_command():
    table = (ROOT / "README.md").read_text().split("<!-- table -->", 1)[1].split("<!-- end of table -->", 1)[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert {row.split(" | ")[0] for row in rows[1:]} >= {"| torch", "| onnxruntime", "| openvino"}
    for words in ("cores of", "torch 2", "sr-deploy bench", "the reference"):
        assert words in table


def test_shown_outputs_belong_to_the_shown_commands():
    page = (ROOT / "README.md").read_text()
    for command, mark in {
        "sr-deploy train": "bicubic",
        "sr-deploy export --fp16": "verified",
        "sr-deploy bench": "torch",
        "sr-deploy verify": "verified",
        "sr-deploy upscale photo.jpg photo_x4.png": "photo_x4.png",
    }.items():
        output = page.split(f"$ {command}\n", 1)[1].split("```", 1)[0]
        assert mark in output, command
