"""Faults of INT8 graphs, the hash of each entered: in the graph alone, in `int8.json` alone, and in both alike."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sr_deploy.export.fp16 import convert_model_to_fp16
from sr_deploy.export.int8.bundle import load_quantized_source
from sr_deploy.export.int8.insert import QuantizedConv, insert_quantization, quantize_weight

FILE = "model.int8.onnx"
NETWORKS = ("compact", pytest.param("rrdb", marks=pytest.mark.slow))
Report = dict[str, Any]


def list_steps(model: onnx.ModelProto) -> list[str]:
    """Names of the activations' steps."""
    return sorted(one.name for one in model.graph.initializer if one.name.startswith("int8.scale_"))


def list_biases(model: onnx.ModelProto) -> list[str]:
    """Of the quantized convolutions."""
    return [
        node.input[2] for node in model.graph.node if node.op_type == "Conv" and node.input[1].endswith(".weight.back")
    ]


def scale_tensors(choose: Callable[[onnx.ModelProto], list[str]], factor: float):
    def change(model, surgery):
        for name in choose(model):
            surgery.change_tensor(model, name, lambda values: (values * factor).astype(values.dtype))

    return change


def one_zero_point(model, surgery):
    """20 for one layer's data, in both of its nodes."""
    zero = surgery.add_constant(model, "x.zero", np.array(20, np.int8))
    quantizer = surgery.find(model, "QuantizeLinear")
    quantizer.input[2] = zero
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and quantizer.output[0] in node.input:
            node.input[2] = zero


def zero_points_of_channels(model, surgery):
    """Of a weight: 0 for the first channel, 3 for all others."""
    node = next(
        node
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0].endswith("weight.int8")
    )
    scale = next(one for one in model.graph.initializer if one.name == node.input[1])
    zeros = np.full(scale.dims[0], 3, np.int8)
    zeros[0] = 0
    node.input.append(surgery.add_constant(model, "x.zeros", zeros))


GRAPH_FAULTS = {
    "one bias by 0.8": (scale_tensors(lambda m: list_biases(m)[1:2], 0.8), r"the bias of Conv '.*': \d+ of \d+ values"),
    "one step by 2": (scale_tensors(lambda m: list_steps(m)[1:2], 2), r"before Conv '.*' has a step of .* where int8"),
    "one step by 0.5": (
        scale_tensors(lambda m: list_steps(m)[:1], 0.5),
        r"before Conv '.*' has a step of .* where int8",
    ),
    "all steps by 1.5": (scale_tensors(list_steps, 1.5), r"before Conv '.*' has a step of .* where int8.json records"),
    "all steps by 0.8": (scale_tensors(list_steps, 0.8), r"before Conv '.*' has a step of .* where int8.json records"),
    "a zero point": (
        one_zero_point,
        r"QuantizeLinear .* before Conv '.*' has 1 of 1 zero points that are not 0, first 20",
    ),
    "zero points of channels": (
        zero_points_of_channels,
        r"DequantizeLinear .* before Conv '.*' has \d+ of \d+ zero points that are not 0, first 3",
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("fault", GRAPH_FAULTS)
def test_what_the_graph_alone_says_is_held_to_int8_json(forge, surgery, capsys, network, fault):
    bundle = forge(network, int8=True)
    change, message = GRAPH_FAULTS[fault]
    bundle.change_graph(FILE, lambda model: change(model, surgery))
    code, found = bundle.verify(capsys, "onnxruntime:int8")
    assert code == 3
    assert any(re.search(message, line) for line in found[f"{FILE} (weights)"]), found
    if fault == "one bias by 0.8":
        assert bundle.verify(capsys, "onnxruntime:int8") == (code, found)


def leave_all_but_one(bundle) -> int:
    """Make the graph anew with its first quantized convolution alone in INT8; returns how many there were."""
    path, report = bundle.path / FILE, json.loads((bundle.path / "int8.json").read_text())
    model = load_quantized_source(bundle.path / "model.fp32.onnx", bundle.path / "int8.json")
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    quantized = [layer for layer in report["layers"] if layer["precision"] == "int8"]
    node = next(node for node in model.graph.node if node.name == quantized[0]["name"])
    levels, scale = quantize_weight(tensors[node.input[1]], per_channel=True)
    bias = np.array(quantized[0]["bias"], np.float32)
    insert_quantization(model, {node.name: QuantizedConv(quantized[0]["step"], levels, scale, bias)})
    convert_model_to_fp16(model, FILE)
    next(one for one in model.metadata_props if one.key == "sr_deploy.precision").value = "int8"
    onnx.save(model, path)
    bundle.enter_hashes()
    return len(quantized)


@pytest.mark.parametrize("network", NETWORKS)
def test_layers_that_are_left_in_fp16_are_named_and_counted(forge, capsys, network):
    bundle = forge(network, int8=True)
    count = leave_all_but_one(bundle)
    for _ in range(2):
        code, found = bundle.verify(capsys, "onnxruntime:int8")
        assert code == 3
        lines = found[f"{FILE} (weights)"]
        assert sum("computes in float, and int8.json records int8" in line for line in lines) == count - 1
        assert any("int8_share of the graph's record is" in line for line in found[f"{FILE} (precision)"])


def edit_share(report: Report) -> None:
    report["share"] = 0.99


def edit_layer(report: Report) -> None:
    layer = next(layer for layer in report["layers"] if layer["precision"] == "int8")
    layer |= {"precision": "float", "why": "left out to meet the budget", "step": None, "bias": None}


def edit_budget(report: Report) -> None:
    report["options"]["max_drop_db"] = 40.0


def edit_loss(report: Report) -> None:
    report["drop_db"] = report["drop_db"] / 2 - 1e-3


def drop_steps(report: Report) -> None:
    for layer in report["layers"]:
        layer["step"] = None


def record_twice(report: Report) -> None:
    report["layers"].append(report["layers"][1])


REPORT_FAULTS = {
    "share": (edit_share, "precision", "share of int8.json is 0.99, and"),
    "a layer": (edit_layer, "weights", "computes in int8, and int8.json records float"),
    "the budget": (edit_budget, "precision", "max_drop_db is 1.0 in the manifest and 40.0 in int8.json"),
    "the loss": (edit_loss, "precision", "drop_db is .* in the manifest and .* in int8.json"),
    "a layer twice": (record_twice, "weights", "int8.json records '.*' 2 times, and each layer has one record"),
    "no steps": (drop_steps, "weights", "int8.json does not record the step of Conv"),
}


@pytest.mark.parametrize("fault", REPORT_FAULTS)
def test_what_int8_json_alone_says_is_held_to_the_graph(forge, capsys, fault):
    bundle = forge("compact", int8=True)
    change, kind, message = REPORT_FAULTS[fault]
    bundle.change_json("int8.json", change)
    code, found = bundle.verify(capsys, "onnxruntime:int8")
    assert code == 3
    assert any(re.search(message, line) for line in found[f"{FILE} ({kind})"]), found


def test_an_edited_share_in_the_manifest_is_held_to_the_graph(forge, capsys):
    bundle = forge("compact", int8=True)

    def edit(manifest: Report) -> None:
        next(one for one in manifest["graphs"] if one["precision"] == "int8")["int8_share"] = 0.999

    bundle.change_json("bundle.json", edit)
    code, found = bundle.verify(capsys, "onnxruntime:int8")
    assert code == 3
    assert any("int8_share of the graph's record is 0.999, and" in line for line in found[f"{FILE} (precision)"])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("factor", [1.5, 0.8])
def test_steps_that_both_files_change_alike_are_measured_on_photographs(forge, surgery, capsys, network, factor):
    bundle = forge(network, int8=True)
    bundle.change_graph(FILE, lambda model: scale_tensors(list_steps, factor)(model, surgery))

    graph = onnx.load(bundle.path / FILE)
    stored = {float(numpy_helper.to_array(one)) for one in graph.graph.initializer if one.name in list_steps(graph)}

    def edit(report: Report) -> None:
        for layer in report["layers"]:
            if layer["step"] is not None:  # as the graph stores it: FP16, and FP32 for input and output
                products = [float((np.array(layer["step"], kind) * factor).astype(kind)) for kind in ("f2", "f4")]
                layer["step"] = next(one for one in products if one in stored)

    bundle.change_json("int8.json", edit)
    code, found = bundle.verify(capsys, "onnxruntime:int8")
    assert code == 3
    assert f"{FILE} (weights)" not in found
    assert any(re.search(r"the step of .* reaches \d\.\d+ times as far", one) for one in found[f"{FILE} (calibration)"])


@pytest.mark.parametrize("network", NETWORKS)
def test_a_correction_that_both_files_make_alike_is_measured_on_photographs(forge, surgery, capsys, network):
    bundle = forge(network, int8=True)

    def edit(report: Report) -> None:
        layer = next(layer for layer in report["layers"] if layer["precision"] == "int8")
        bias = np.array(layer["bias"], np.float32)
        shifts = np.array(report["shifts"].get(layer["name"], np.zeros(len(bias))), np.float32)
        moved = shifts - np.float32(0.2) * bias
        report["shifts"][layer["name"]] = tuple(map(float, moved))
        layer["bias"] = tuple(map(float, bias - shifts + moved))

    def move(model: onnx.ModelProto) -> None:
        report = json.loads((bundle.path / "int8.json").read_text())
        layer = next(layer for layer in report["layers"] if layer["precision"] == "int8")
        surgery.change_tensor(
            model, f"{layer['name']}.bias", lambda values: np.array(layer["bias"], np.float32).astype(values.dtype)
        )

    bundle.change_json("int8.json", edit)
    bundle.change_graph(FILE, move)
    code, found = bundle.verify(capsys, "onnxruntime:int8")
    assert code == 3
    assert any("is corrected by" in line for line in found[f"{FILE} (calibration)"]), found


def test_int8_of_another_network_is_a_finding(forge, capsys):
    bundle = forge("compact", int8=True)

    def rename(report: Report) -> None:
        report["layers"][0]["name"] = "conv_99"

    bundle.change_json("int8.json", rename)
    code, found = bundle.verify(capsys, "onnxruntime:int8")
    assert code == 3
    assert any("conv_99" in line for line in found[f"{FILE} (weights)"])


def test_steps_that_are_said_to_be_trained_with_stand_in_the_weights(forge, capsys):
    bundle = forge("compact", int8=True)
    bundle.change_json("int8.json", lambda report: report.update(trained=True))
    code, found = bundle.verify(capsys, "onnxruntime:int8")
    assert code == 3
    assert found[f"{FILE} (calibration)"] == ["steps are said to be trained with, and the weights name none"]
