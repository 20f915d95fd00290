"""`--backend auto` through the command and from Python."""

from __future__ import annotations

import json

import numpy as np
import pytest

import sr_deploy
from sr_deploy.backends import BackendChoice
from sr_deploy.cache import cache_folder
from sr_deploy.cli import main
from sr_deploy.gpus import visible_gpus
from sr_deploy.imaging.codec import read_image, write_image
from sr_deploy.model import open_model
from sr_deploy.runners.fastest import KIND
from sr_deploy.upscale.backend import choose_backend, choose_fp32

pytestmark = pytest.mark.skipif(bool(visible_gpus()), reason="this machine has an NVIDIA GPU, which auto takes unasked")


@pytest.fixture
def here(tmp_path, monkeypatch, make_bundle):
    """A folder with a picture and a bundle, and a cache that knows nothing."""
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    make_bundle("compact-x4", tmp_path)
    write_image(tmp_path / "in.png", np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    return tmp_path


def test_the_command_measures_once_and_says_so(here, capsys):
    words = ["upscale", "in.png", "out.png", "--model", "compact-x4", "--json"]
    backends = []
    for told in (1, 0):
        assert main(words) == 0
        captured = capsys.readouterr()
        backends.append(json.loads(captured.out)["backend"])
        assert captured.err.count("--backend auto measured") == told
    assert backends[0] == backends[1]
    assert read_image(here / "out.png").shape == (80, 120, 3)
    (kept,) = (here / "cache" / KIND).glob("*.json")
    document = json.loads(kept.read_text())
    assert document["chosen"] == backends[0]
    assert document["question"]["candidates"] == ["openvino:fp32", "onnxruntime:fp32", "torch:fp32"]

    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["cache"], found["remembered_choices"]) == (str(cache_folder()), 1)


def test_python_takes_what_is_remembered(here):
    model = open_model(here / "compact-x4")
    chosen = choose_backend(model, "auto")
    (kept,) = (here / "cache" / KIND).glob("*.json")
    other = next(name for name in ("onnxruntime:fp32", "torch:fp32") if name != str(chosen))
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"chosen": other}))
    with sr_deploy.Upscaler(here / "compact-x4") as upscaler:
        assert str(upscaler.spec) == other
    with sr_deploy.Upscaler(here / "compact-x4", backend="openvino") as upscaler:
        assert str(upscaler.spec) == "openvino:fp32"  # what is asked for is what runs
    assert choose_backend(model, BackendChoice("torch", "bf16")) == BackendChoice("torch", "bf16")


def test_another_backend_computes_again_in_fp32(here):
    model = open_model(here / "compact-x4")
    assert choose_fp32(model, BackendChoice("openvino", "int8")) == BackendChoice("torch")
    assert choose_fp32(model, BackendChoice("torch")) == BackendChoice("onnxruntime")
    assert choose_fp32(open_model(here / "compact-x4" / "generator.safetensors"), BackendChoice("torch")) is None
