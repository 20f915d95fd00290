"""Planned FP16, BF16 and other I/O types through `sr-deploy export`, to the certificate."""

from __future__ import annotations

import json

import onnx
import pytest
import torch

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.weights import save_generator
from sr_deploy.backends import builders
from sr_deploy.bundle import open_bundle
from sr_deploy.cli import main
from sr_deploy.engine.precision import find_unplanned, find_unplanned_nodes
from sr_deploy.graph.read import read_graph

SPEC = ArchSpec(architecture="compact", scale=2, features=8, blocks=3)
PROFILE = "tile=1x16x16,1x24x24,1x32x32"
needs_rtx = pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")


def export(checkpoint, out, *options):
    return main(["export", str(checkpoint), "--out", str(out), "--profile", PROFILE, *options])


def make_checkpoint(path, factor):
    """A network whose second convolution gives `factor` times more than it should, and whose third takes it back."""
    torch.manual_seed(1)
    state = build_network(SPEC).state_dict()
    state["body.4.weight"] *= factor
    state["body.4.bias"] *= factor
    state["body.6.weight"] /= factor
    save_generator(path, state, SPEC)
    return path


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A bundle of a network that overflows FP16, with what `export --json` printed."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("planned")
    checkpoint = make_checkpoint(folder / "loud.safetensors", 1e6)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = export(checkpoint, folder / "loud", "--fp16", "--bf16", "--backend", "auto", "--json")
    return open_bundle(folder / "loud"), json.loads(printed.getvalue()), code


def test_what_overflows_fp16_is_planned_recorded_and_verified(planned):
    bundle, document, code = planned
    assert code == 0
    record = bundle.manifest.graph("fp16")
    assert record.planned_fp32 == ("conv_2", "prelu_2", "conv_3")
    assert [one["name"] for one in document["fp16_plan"]["kept"]] == ["conv_2", "prelu_2", "conv_3"]
    assert "reaches" in document["fp16_plan"]["kept"][0]["reason"]
    assert find_unplanned_nodes(bundle.graph("fp16"), record) == []
    assert len(find_unplanned_nodes(bundle.graph("fp16"), record.model_copy(update={"planned_fp32": ()}))) == 2


def test_true_half_arithmetic_of_a_planned_graph_is_the_graphs_own(planned):
    bundle, _, _ = planned
    entries = {entry.backend: entry for entry in bundle.certificate().entries}
    rounded = entries["onnxruntime:fp16 rounded"]
    assert rounded.passed
    assert rounded.artifact.file == "model.fp16.onnx"
    assert rounded.rewrites == ("round-results",)
    assert 60 < rounded.worst_psnr_db < 120
    assert "torch:fp16" not in entries  # it would run everything in half, and overflow


def test_bf16_is_verified_by_the_graph_itself_and_needs_no_plan(planned):
    bundle, _, _ = planned
    assert bundle.precisions == ("fp32", "fp16", "bf16")
    assert bundle.manifest.graph("bf16").planned_fp32 == ()
    assert read_graph(bundle.graph("bf16")).precision == "bf16"
    entries = {entry.backend: entry for entry in bundle.certificate().entries}
    assert entries["onnxruntime:bf16"].artifact.file == "model.bf16.onnx"
    figures = [entries[name].worst_psnr_db for name in ("onnxruntime:bf16", "torch:bf16")]
    assert min(figures) > 38
    assert abs(figures[0] - figures[1]) < 1.5


@needs_rtx
def test_engines_declare_what_is_planned(planned):
    bundle, _, _ = planned
    engines = {engine.precision: engine for engine in bundle.engines() if engine.backend == "tensorrt-rtx"}
    assert set(engines) == {"fp32", "fp16", "bf16"}
    for precision, engine in engines.items():
        assert find_unplanned(engine, bundle.manifest.graph(precision)) == []
    declared = engines["fp16"].declared
    assert {name for name, seen in declared.items() if seen == "fp32"} == {"conv_2", "conv_3"}
    assert set(engines["bf16"].declared.values()) == {"bf16"}
    assert "sm75" in engines["fp16"].target
    assert "sm75" not in engines["bf16"].target  # Turing has no BF16


def test_export_says_what_stays_and_why(tmp_path, capsys):
    checkpoint = make_checkpoint(tmp_path / "loud.safetensors", 1e6)
    assert export(checkpoint, tmp_path / "loud", "--fp16", "--backend", "none") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "fp16: 3 nodes stay FP32 as planned, greatest value" in text
    assert "conv_2 (Conv): its" in text
    assert "more than 1/4 of FP16's 65504" in text


def test_sound_networks_plan_nothing_and_say_so(tmp_path, capsys):
    checkpoint = make_checkpoint(tmp_path / "calm.safetensors", 1)
    assert export(checkpoint, tmp_path / "calm", "--fp16", "--backend", "none") == 0
    assert "fp16: every layer fits, greatest value" in " ".join(capsys.readouterr().out.split())
    assert open_bundle(tmp_path / "calm").manifest.graph("fp16").planned_fp32 == ()


def test_io_dtype_by_option(tmp_path, capsys):
    checkpoint = make_checkpoint(tmp_path / "calm.safetensors", 1)
    assert export(checkpoint, tmp_path / "calm", "--fp16", "--io-dtype", "fp16", "--backend", "none") == 0
    bundle = open_bundle(tmp_path / "calm")
    for precision in ("fp32", "fp16"):
        info = read_graph(bundle.graph(precision))
        assert (info.input_dtype, info.output_dtype) == ("float16", "float16")
    assert not [node for node in onnx.load(bundle.graph("fp16")).graph.node if node.op_type == "Cast"]
    capsys.readouterr()
    assert export(checkpoint, tmp_path / "other", "--io-dtype", "fp64", "--backend", "none") == 1
    assert "--io-dtype takes fp32, fp16, uint8, uint16, not 'fp64'" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
