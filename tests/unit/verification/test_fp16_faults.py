"""Faults of FP16 and BF16 graphs, the hash of each entered: in types, casts and plans, which running hardly shows."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from sr_deploy.cli import main

FILE = "model.fp16.onnx"
NETWORKS = ("compact", pytest.param("rrdb", marks=pytest.mark.slow))
ACTIVATIONS = {"compact": "PRelu", "rrdb": "LeakyRelu"}


def rounded_to_bf16(model, surgery, activation):
    """A Cast to BF16 and back behind each activation."""
    for node in [node for node in model.graph.node if node.op_type == activation]:
        casts = [("Cast", {"to": kind}) for kind in (TensorProto.BFLOAT16, TensorProto.FLOAT16)]
        surgery.insert_behind(model, node, *casts)


def coarse_steps(model, surgery, activation):
    """A quantization of an FP16 graph's feature map."""
    scale = surgery.add_constant(model, "x.scale", np.array(0.01, np.float16))
    zero = surgery.add_constant(model, "x.zero", np.array(0, np.int8))
    surgery.insert_behind(model, surgery.find(model, activation, 1), ("QuantizeLinear", {}), ("DequantizeLinear", {}))
    for one in model.graph.node:
        if one.op_type in ("QuantizeLinear", "DequantizeLinear"):
            one.input.extend([scale, zero])


def activation_in_fp32(model, surgery, activation):
    """One activation computes in FP32, which no plan asks for."""
    node = surgery.find(model, activation, 1)
    before = next(one for one in model.graph.node if node.input[0] in one.output)
    surgery.insert_behind(model, before, ("Cast", {"to": TensorProto.FLOAT}))
    if len(node.input) > 1:
        slope = next(one for one in model.graph.initializer if one.name == node.input[1])
        wide = onnx.numpy_helper.to_array(slope).astype(np.float32)
        node.input[1] = surgery.add_constant(model, "x.slope", wide)
    surgery.insert_behind(model, node, ("Cast", {"to": TensorProto.FLOAT16}))


FAULTS = {
    "FP16 to BF16 and back": (
        rounded_to_bf16,
        "input \\d of .* comes through Cast .* in BFLOAT16, which does not hold",
    ),
    "coarse steps": (coarse_steps, "input \\d of .* comes through QuantizeLinear .*, and is to be read as it is"),
    "an activation in FP32": (activation_in_fp32, "{activation} .* gives FLOAT where FLOAT16 is due"),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("fault", FAULTS)
def test_types_and_casts_that_nobody_planned_are_found(forge, surgery, capsys, network, fault):
    bundle = forge(network, fp16=True)
    change, message = FAULTS[fault]
    bundle.change_graph(FILE, lambda model: change(model, surgery, ACTIVATIONS[network]))
    code, found = bundle.verify(capsys, "onnxruntime:fp16")
    assert code == 3
    lines = found[f"{FILE} (weights)"]
    assert any(re.search(message.format(activation=ACTIVATIONS[network]), line) for line in lines), lines
    if fault == "FP16 to BF16 and back":
        assert bundle.verify(capsys, "onnxruntime:fp16") == (code, found)


@pytest.mark.parametrize("network", NETWORKS)
def test_bf16_graphs_are_held_to_their_types_too(forge, surgery, capsys, network):
    bundle = forge(network, bf16=True)

    def round_to_fp8(model: onnx.ModelProto) -> None:
        node = surgery.find(model, ACTIVATIONS[network], 1)
        kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
        surgery.insert_behind(model, node, *[("Cast", {"to": kind}) for kind in kinds])

    bundle.change_graph("model.bf16.onnx", round_to_fp8)
    code, found = bundle.verify(capsys, "onnxruntime:bf16")
    assert code == 3
    lines = found["model.bf16.onnx (weights)"]
    assert all(re.search("comes through Cast .* in FLOAT16, which does not hold BFLOAT16", line) for line in lines)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_plan_that_lists_every_convolution_makes_no_fp16_graph_of_an_fp32_one(forge, capsys, network):
    bundle = forge(network, fp16=True)
    shutil.copyfile(bundle.path / "model.fp32.onnx", bundle.path / FILE)

    def relabel(model: onnx.ModelProto) -> None:
        next(one for one in model.metadata_props if one.key == "sr_deploy.precision").value = "fp16"

    bundle.change_graph(FILE, relabel)
    names = [node.name for node in onnx.load(bundle.path / FILE).graph.node if node.op_type == "Conv"]

    def plan(manifest: dict[str, list[dict[str, object]]]) -> None:
        next(one for one in manifest["graphs"] if one["precision"] == "fp16")["planned_fp32"] = names

    bundle.change_json("bundle.json", plan)
    for _ in range(2):
        code, found = bundle.verify(capsys, "onnxruntime:fp16")
        assert code == 3
        lines = found[f"{FILE} (precision)"]
        assert len(lines) == min(len(names), 21)  # the first twenty, and how many more
        assert lines[0].startswith(f"{names[0]} is planned in FP32, and nothing asks for it: FP16 ends at 65504 and")


@pytest.mark.parametrize("network", NETWORKS)
def test_the_share_that_is_planned_in_fp32_is_shown(export_sound, network):
    checks = {(one.kind, one.file): one.what for one in export_sound(network, fp16=True).certificate().checks}
    assert checks["precision", FILE] == "declared: of the multiply-adds, 100.0 % in fp16"


@pytest.mark.parametrize("network", NETWORKS)
def test_a_manifest_without_the_fp32_graph_is_no_exports(forge, surgery, capsys, network):
    """And the FP16 graph is audited all the same."""
    bundle = forge(network, fp16=True)
    bundle.change_graph(FILE, lambda model: rounded_to_bf16(model, surgery, ACTIVATIONS[network]))

    def drop(manifest: dict[str, list[dict[str, object]]]) -> None:
        manifest["graphs"] = [one for one in manifest["graphs"] if one["precision"] != "fp32"]

    bundle.change_json("bundle.json", drop)
    code = main(["verify", str(bundle.path), "--backend", "onnxruntime:fp16", "--json"])
    assert code == 3
    assert "fp32" in capsys.readouterr().out


def test_fp16_io_may_round_what_lies_beyond_one_by_its_own_step(tmp_path: Path, capsys):
    """The outputs of the network that ships reach 2.18 on drawings; half a step of FP16 is 2^-10 there."""
    out = tmp_path / "fp16-io"
    assert main(["export", "small-x2", "--fp16", "--io-dtype", "fp16", "--backend", "none", "--out", str(out)]) == 0
    capsys.readouterr()
    certificate = json.loads((out / "certificate.json").read_text())
    entry = next(one for one in certificate["entries"] if one["backend"] == "openvino:fp32")
    beyond = [one for one in entry["measurements"] if one["max_abs"] > entry["thresholds"]["max_abs"]]
    assert beyond
    assert all(one["max_abs"] <= one["allowed"] == pytest.approx(1e-5 + 2**-10) for one in beyond)
