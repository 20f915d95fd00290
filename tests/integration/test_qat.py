"""`train --qat`: what is trained is the network that `export --int8` makes, number for number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from sr_deploy.arch.quantized import quantize_convolutions
from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.weights import describe_input_steps, read_checkpoint, read_input_steps, save_generator
from sr_deploy.bundle import open_bundle
from sr_deploy.cli import main
from sr_deploy.files import sha256_of
from sr_deploy.train.recipe import read_run_recipe

ARCH = ArchSpec(architecture="compact", scale=2, features=16, blocks=2)
SPEC = """
profiles = ["tile=1x16x16,1x32x32,1x64x64"]
[engine]
backend = "none"
[thresholds.int8]
psnr_db = 15.0
[int8]
max_drop_db = 20
max_pixel_error = 2.0
gate_crops = 2
search_crops = 1
curve_points = 1
rest = "fp32"
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, write_network) -> Path:
    """A folder with a network and the run that trained it for INT8."""
    root = tmp_path_factory.mktemp("qat")
    write_network(root / "net.safetensors", ARCH)
    sets = [
        "data.patch_size=32", "data.batch=4", "optimizer.learning_rate=3e-4", "run.steps=60", "run.log_every=10",
        "precision.autocast=off", "precision.channels_last=false", "loss.weight=0.001",
    ]  # fmt: skip
    words = [part for value in sets for part in ("--set", value)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(["train", "--qat", "net.safetensors", "--device", "cpu", *words]) == 0
    return root


def test_the_network_comes_nearer_to_what_it_was_in_fp32(work: Path) -> None:
    lines = [json.loads(line) for line in (work / "runs/compact-qat/metrics.jsonl").read_text().splitlines()]
    distances = [line["distill"] for line in lines if line["kind"] == "training"]
    assert distances[-1] < 0.9 * distances[0]
    recipe = read_run_recipe(work / "runs/compact-qat/recipe.toml")
    assert recipe.arch_spec() == ARCH
    assert recipe.quantization is not None
    assert set(recipe.quantization.input_steps) == {"body.2", "body.4", "body.6"}  # all but the first


def test_the_exported_graph_computes_what_was_trained(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    (work / "spec.toml").write_text(SPEC)
    assert main(["export", "runs/compact-qat", "--int8", "--spec", "spec.toml", "--out", "bundle"]) == 0
    bundle = open_bundle(work / "bundle")
    report = json.loads((bundle.path / "int8.json").read_text())
    steps = read_input_steps(bundle.reference)
    assert report["trained"]
    assert (report["equalized"], report["learned"], report["shifts"]) == ({}, {}, {})
    assert [layer["step"] for layer in report["layers"] if layer["precision"] == "int8"] == list(steps.values())
    checkpoint = read_checkpoint(bundle.reference)
    network = build_network(checkpoint.spec).eval()
    network.load_state_dict(checkpoint.state)
    lr_NCHW = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        in_fp32 = network(lr_NCHW).numpy()
        quantize_convolutions(network, steps)
        expected = network(lr_NCHW).numpy()
    session = onnxruntime.InferenceSession(bundle.graph("int8"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"lr": lr_NCHW.numpy()})
    # Numbers that lie halfway between two levels may be rounded either way; one level in a hundred samples, not all.
    off = np.abs(found - expected)
    assert np.median(off) < 1e-5
    assert np.sqrt(np.mean(off**2)) < 0.1 * np.sqrt(np.mean((in_fp32 - expected) ** 2))


def test_verify_holds_the_graph_to_the_steps_in_the_weights(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = open_bundle(work / "bundle")
    assert main(["verify", str(bundle.path), "--json"]) == 0
    weights = read_checkpoint(bundle.reference)
    steps = read_input_steps(bundle.reference) | {"body.4": 0.5}
    extra = {"source_sha256": bundle.manifest.source.sha256, **describe_input_steps(steps)}
    save_generator(bundle.reference, weights.state, weights.spec, extra)
    manifest = json.loads((bundle.path / "bundle.json").read_text())
    manifest["reference"]["sha256"] = sha256_of(bundle.reference)
    (bundle.path / "bundle.json").write_text(json.dumps(manifest))
    capsys.readouterr()
    assert main(["verify", str(bundle.path), "--json"]) == 3
    found = [line for check in json.loads(capsys.readouterr().out)["checks"] for line in check["findings"]]
    assert any("and the weights were trained with 0.5" in line for line in found), found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compact-qat"], "recipe compact-qat trains a network for INT8; give it with --qat CHECKPOINT"),
        (["--qat", "net.safetensors", "--resume"], "--resume and --qat were given"),
        (["--qat", "net.safetensors", "no-such"], "no-such"),
        (["--qat", "gone.pth"], "gone.pth does not exist"),
        (["--qat", "srresnet.safetensors"], "no recipe for INT8 is shipped for srresnet"),
        (["srresnet", "--qat", "srresnet.safetensors"], "as where batch normalization is folded into them"),
    ],
)
def test_what_cannot_be_trained_is_refused(work: Path, words: list[str], message: str, monkeypatch, capsys) -> None:
    monkeypatch.chdir(work)
    arch = ArchSpec(architecture="srresnet", scale=4, features=8, blocks=1)
    network = build_network(arch)
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.add_(0.5)
    save_generator(work / "srresnet.safetensors", network.state_dict(), arch)
    before = sorted(work.rglob("*"))
    assert main(["train", *words]) == 1
    assert message in capsys.readouterr().err
    assert sorted(work.rglob("*")) == before
