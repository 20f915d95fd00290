"""`sr-deploy export --triton` and `sr-deploy build`, as people run them."""

from __future__ import annotations

import json

import pytest

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.backends import builders
from sr_deploy.cli import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, write_network):
    arch = ArchSpec(architecture="compact", scale=2, features=4, blocks=1)
    return write_network(tmp_path_factory.mktemp("cli") / "net.safetensors", arch)


def test_a_triton_repository_is_written_beside_the_bundle(checkpoint, tmp_path, capsys):
    arguments = ["export", str(checkpoint), "--no-rewrite", "--backend", "none", "--out", str(tmp_path / "net")]
    profile = ["--profile", "tile=1x8x8,2x16x16,4x16x16"]
    assert main([*arguments, *profile, "--triton", str(tmp_path / "models"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    path = tmp_path / "models" / "net-fp32-onnx"
    assert document["triton"] == [{"name": "net-fp32-onnx", "backend": "onnxruntime", "path": str(path)}]
    assert document["manifest"]["engine"]["backend"] == "none"
    text = (path / "config.pbtxt").read_text()
    assert 'name: "net-fp32-onnx"\n' in text
    assert "max_batch_size: 4\n" in text
    assert "dynamic_batching {\n  preferred_batch_size: 2\n" in text
    # Nothing has been built, and the bundle's spec asks for nothing.
    assert main(["build", str(tmp_path / "net")]) == 1
    assert "asks for no engines; give --backend auto, tensorrt or tensorrt-rtx" in capsys.readouterr().err


@pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")
def test_build_shows_what_engines_compute_in_and_keeps_those_that_hold(checkpoint, tmp_path, capsys):
    bundle = str(tmp_path / "net")
    arguments = ["export", str(checkpoint), "--fp16", "--no-rewrite", "--backend", "none", "--out", bundle]
    assert main([*arguments, "--profile", "tile=1x8x8,1x16x16,1x16x16"]) == 0
    build = ["build", bundle, "--backend", "tensorrt-rtx", "--compute-capability", "sm89"]
    capsys.readouterr()
    assert main([*build, "--optimization-level", "2"]) == 0
    shown = capsys.readouterr()
    assert "100.0 % fp16" in shown.out
    assert "build the tensorrt-rtx:fp16 engine for sm89" in shown.err
    assert main([*build, "--optimization-level", "2", "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)
    assert (kept["built"], len(kept["kept"])) == ([], 2)
    assert main([*build, "--optimization-level", "3", "--json"]) == 0
    rebuilt = json.loads(capsys.readouterr().out)
    assert [record["flags"]["optimization_level"] for record in rebuilt["built"]] == ["3", "3"]
    assert len(rebuilt["removed"]) == 2
