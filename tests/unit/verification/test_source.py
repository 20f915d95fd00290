"""A bundle held against the checkpoint that it says it came from."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from sr_deploy.arch.weights import read_checkpoint, save_generator
from sr_deploy.bundle import open_bundle
from sr_deploy.cli import main
from sr_deploy.deploy import export_bundle
from sr_deploy.export.spec import load_spec
from sr_deploy.files import sha256_of
from sr_deploy.verification.source import check_source

SPEC = load_spec().with_options(rewrite=False)


@pytest.fixture(scope="module")
def run(write_gentle_network, tmp_path_factory):
    """A training run of two steps: the bundle is made of the first."""
    folder = tmp_path_factory.mktemp("run")
    for step, change in (("step-000010", 0.0), ("step-000020", 1e-3)):
        path = write_gentle_network(folder / "checkpoints" / step / "generator_ema.safetensors", 8, 1)
        checkpoint = read_checkpoint(path)
        state = {name: tensor + change for name, tensor in checkpoint.state.items()}
        save_generator(path, state, checkpoint.spec)
    return folder


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
    """Exported from the run's first step."""
    source = run / "checkpoints" / "step-000010"
    return export_bundle(source, SPEC, tmp_path_factory.mktemp("made") / "bundle", "none").bundle


def find(bundle, source):
    from sr_deploy.model import open_model

    return check_source(open_model(bundle.path), source)


def test_the_checkpoint_and_the_run_that_it_came_from_are_found_right(made, run, capsys):
    for source in (run / "checkpoints" / "step-000010" / "generator_ema.safetensors", run):
        check = find(made, source)
        assert check.findings == ()
        assert check.sha256 == made.manifest.reference.sha256
        assert "step-000010" in check.what  # of a run the step with the recorded hash, not the newest
    assert main(["verify", str(made.path), "--source", str(run), "--backend", "openvino"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("verified")


def test_another_training_is_found_and_stays_found(made, run, tmp_path, capsys):
    shutil.copytree(made.path, tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    other = run / "checkpoints" / "step-000020"
    words = ["verify", str(bundle.path), "--backend", "openvino", "--json"]
    for more in (["--source", str(other)], []):
        assert main([*words, *more]) == 3
        document = json.loads(capsys.readouterr().out)
        assert document["failures"] == ["generator.safetensors (source)"]
        (finding,) = document["findings"]
        assert "and " + str(other) in finding["lines"][0]
        assert f"has {sha256_of(other / 'generator_ema.safetensors')[:12]}..." in finding["lines"][0]
        assert any("values differ" in line and "tensor 'body." in line for line in finding["lines"])
    assert main([*words, "--source", str(run)]) == 0  # the right one clears it


def test_a_forged_origin_is_found_though_the_weights_are_the_same(made, run, tmp_path):
    """The manifest names another checkpoint; the graphs' metadata still name the true one."""
    shutil.copytree(made.path, tmp_path / "bundle")
    path = tmp_path / "bundle" / "bundle.json"
    manifest = json.loads(path.read_text())
    manifest["source"]["sha256"] = "5" * 64
    path.write_text(json.dumps(manifest))
    check = find(open_bundle(tmp_path / "bundle"), run / "checkpoints" / "step-000010")
    assert len(check.findings) == 2
    assert check.findings[0].startswith("bundle.json says that it came from generator_ema.safetensors with sha256 5555")
    assert check.findings[1].startswith("model.fp32.onnx says in its metadata that it came from sha256 ")


def test_another_network_is_named(made, write_gentle_network, tmp_path):
    other = write_gentle_network(tmp_path / "other.safetensors", 8, 2)
    assert any("compact x2, 2 blocks" in line for line in find(made, other).findings)


def test_the_same_weights_in_another_file_are_another_file(made, run, tmp_path):
    state = read_checkpoint(run / "checkpoints" / "step-000010" / "generator_ema.safetensors").state
    torch.save({"params": state}, tmp_path / "net.pth")
    (finding,) = find(made, tmp_path / "net.pth").findings
    assert "net.pth has" in finding
    assert "the weights are the same" in finding


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "gone.pth"], "gone.pth does not exist"),
        (["--source", "GRAPH"], "holds no weights to hold the bundle against; give a checkpoint or a run"),
    ],
)
def test_what_is_no_checkpoint_is_said(made, words, message, capsys):
    words = [str(made.path / "model.fp32.onnx") if word == "GRAPH" else word for word in words]
    assert main(["verify", str(made.path), *words]) == 1
    assert message in capsys.readouterr().err


def test_only_a_bundle_has_a_source(made, capsys):
    assert main(["verify", str(made.path / "model.fp32.onnx"), "--source", str(made.path)]) == 1
    assert "are of bundles" in capsys.readouterr().err
