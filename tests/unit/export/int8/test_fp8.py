"""FP8 graphs: what lies in the file, what it computes, what is learned, and what the report says."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from sr_deploy.errors import RecipeError, VerificationError
from sr_deploy.export.int8 import task as task_module
from sr_deploy.export.int8.bundle import Calibration, load_quantized_source, write_int8_graph
from sr_deploy.export.int8.calibration import measure_ranges, quantize_layers
from sr_deploy.export.int8.differentiable import DifferentiableGraph, Quantized
from sr_deploy.export.int8.execute import open_graph
from sr_deploy.export.int8.formats import FP8
from sr_deploy.export.int8.insert import insert_quantization
from sr_deploy.export.int8.learn import learn_layers
from sr_deploy.export.int8.make import make_int8_graph
from sr_deploy.export.int8.placement import place_quantization
from sr_deploy.export.int8.quantization_options import Fp8Options
from sr_deploy.export.spec import load_spec
from sr_deploy.graph.read import describe_graph_cost, read_graph
from sr_deploy.verification.audit import Terms, audit_graph

pytestmark = pytest.mark.xdist_group("int8")


@pytest.fixture
def fp8(quick) -> Fp8Options:
    """As `quick`, but for what FP8 has of its own."""
    return Fp8Options(**quick.model_dump(exclude={"format", "method"}))


def test_the_graph_is_what_the_report_says(trained, fp8, tmp_path):
    path = tmp_path / "model.fp8.onnx"
    written = write_int8_graph(trained[1], path, fp8, Calibration())
    info, cost = read_graph(path), describe_graph_cost(path)
    assert (info.precision, info.metadata["sr_deploy.precision"]) == ("fp8", "fp8")
    assert cost.precision_share == pytest.approx({"fp16": 1 - written.record.share, "fp8": written.record.share})
    assert (written.record.report.file, written.record.picture.file) == ("fp8.json", "fp8-search.svg")
    report = json.loads((tmp_path / "fp8.json").read_text())
    assert (report["options"]["format"], report["options"]["method"]) == ("fp8", "max")
    assert {layer["precision"] for layer in report["layers"]} == {"fp8", "float"}
    assert written.record.upper_db <= 0.05
    graph = onnx.load(path).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    kinds = {tensor.data_type for name, tensor in stored.items() if name.endswith(".fp8")}
    assert kinds == {TensorProto.FLOAT8E4M3FN}
    assert stored["fp8.zero"].data_type == TensorProto.FLOAT8E4M3FN
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            assert list(stored[node.input[1]].dims) == []  # TensorRT takes one step for a feature map
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            assert list(stored[node.input[1]].dims) == [stored[node.input[0]].dims[0]]  # and one for each channel here
    reference = load_quantized_source(trained[1], tmp_path / "fp8.json")
    check = audit_graph(path, reference, "the FP32 graph", Terms("fp8", written.planned_fp32, written.report))
    assert check.passed, check.findings


def test_steps_end_at_the_greatest_e4m3_number(trained, fp8, tmp_path):
    task = task_module.make_task(trained[1], tmp_path / "a.onnx", fp8, calibration=None, keep_fp32=())
    assert task.engine == "onnxruntime"
    placement = place_quantization(task.model)
    limits = measure_ranges(task.model, placement, task.stream_inputs, fp8, task.engine)
    layers = quantize_layers(task.model, placement, limits, fp8)
    for candidate in placement.candidates:
        layer = layers[candidate.name]
        assert layer.input_scale == pytest.approx(limits[candidate.data] / 448, rel=2e-3)
        assert np.abs(layer.weight.astype(np.float32)).max(axis=(1, 2, 3)).min() >= 416  # each channel reaches the end


@pytest.mark.parametrize("name", ["compact-x4", "rrdbnet-x4"])
def test_gradients_flow_through_what_onnxruntime_computes(exported, name):
    """Dense blocks and enlargements too, whose FP8 numbers go through neither Concat nor Resize."""
    model = onnx.load(exported(name).path)
    lr = np.random.default_rng(0).random((1, 3, 16, 12), dtype=np.float32)
    expected = open_graph(model, "onnxruntime")(lr)["sr"]
    placement = place_quantization(model)
    limits = {candidate.data: 2.0 for candidate in placement.candidates}
    layers = quantize_layers(model, placement, limits, Fp8Options())
    learnable = {
        name: Quantized(
            torch.tensor(layer.input_scale),
            torch.from_numpy(layer.weight.astype(np.float32)),
            torch.from_numpy(layer.weight_scale),
            None if layer.bias is None else torch.from_numpy(layer.bias),
        )
        for name, layer in layers.items()
    }
    with torch.no_grad():
        graph = DifferentiableGraph(model, torch.float32, in_fp8=True)
        quantized = graph.run(torch.from_numpy(lr), learnable).numpy()
    insert_quantization(model, layers)
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    types = {one.name: one.type.tensor_type.elem_type for one in inferred}
    moved = [types[node.output[0]] for node in model.graph.node if node.op_type in ("Concat", "Resize")]
    assert set(moved) <= {TensorProto.FLOAT}
    stored = open_graph(model, "onnxruntime")(lr)["sr"]
    assert np.abs(stored - expected).max() > 1e-3 * np.ptp(expected)
    assert np.mean((quantized - stored) ** 2) < 1e-2 * np.mean((stored - expected) ** 2)


def test_onnxruntime_computes_e4m3_numbers(trained):
    """One convolution by hand: numbers of FP8 on both sides, multiplied and added as floats."""
    model = onnx.load(trained[1])
    placement = place_quantization(model)
    candidate = placement.candidates[-1]
    limits = dict.fromkeys((one.data for one in placement.candidates), 1.5)
    layer = quantize_layers(model, placement, limits, Fp8Options())[candidate.name]
    insert_quantization(model, {candidate.name: layer})
    node = next(node for node in model.graph.node if node.name == candidate.name)
    for watched in (*node.input[:2], candidate.data):
        model.graph.output.append(onnx.helper.make_tensor_value_info(watched, TensorProto.FLOAT, None))
    results = open_graph(model, "onnxruntime")(np.random.default_rng(0).random((1, 3, 24, 24), dtype=np.float32))
    step = np.float32(layer.input_scale)
    due = FP8.round(results[candidate.data] / step).astype(np.float32) * step
    assert np.array_equal(results[node.input[0]], due)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = stored[f"{candidate.name}.weight.fp8"].astype(np.float32) * layer.weight_scale.reshape(-1, 1, 1, 1)
    assert np.array_equal(results[node.input[1]], weights)


def test_what_is_learned_is_a_neighboring_number(trained, fp8, tmp_path):
    options = fp8.model_copy(update={"learn_steps": 30, "method": "percentile", "percentile": 90.0})  # clips too much
    task = task_module.make_task(trained[1], tmp_path / "a.onnx", options, calibration=None, keep_fp32=())
    placement = place_quantization(task.model)
    limits = measure_ranges(task.model, placement, task.stream_inputs, options, task.engine)
    layers = quantize_layers(task.model, placement, limits, options)
    learned = learn_layers(task, placement, layers)
    assert not isinstance(learned, str)
    assert {int(one) for moves in learned.moved.values() for one in np.unique(moves)} == {-1, 0, 1}
    wider = {data: limit * learned.factors[data] for data, limit in limits.items()}
    after = quantize_layers(task.model, placement, wider, options, learned.moved)
    apart = [FP8.rank(after[name].weight) - FP8.rank(layer.weight) for name, layer in layers.items()]
    assert max(int(np.abs(one).max()) for one in apart) == 1
    judge = task.open_search_judge()
    assert judge.error(task.open_with(after)) < 0.9 * judge.error(task.open_with(layers))


def test_a_budget_that_cannot_be_met_is_refused_in_the_name_of_fp8(trained, fp8, tmp_path):
    strict = fp8.model_copy(update={"max_pixel_error": 1e-7})
    with pytest.raises(VerificationError, match=r"FP8 does not meet its budget .* the spec's \[fp8\]"):
        make_int8_graph(trained[1], tmp_path / "model.fp8.onnx", strict)


def test_both_formats_are_calibrated_apart(trained, quick, fp8, tmp_path, said):
    make_int8_graph(trained[1], tmp_path / "a.onnx", quick, force=True)
    make_int8_graph(trained[1], tmp_path / "b.onnx", fp8, force=True)
    assert not any("calibrated before" in line for line in said)
    assert {line.split(":")[0] for line in said} == {"int8", "fp8"}


def test_steps_of_qat_are_int8s_alone(trained, fp8, tmp_path):
    steps = Calibration(input_steps={"body.2": 0.01}, force=True)
    report = write_int8_graph(trained[1], tmp_path / "model.fp8.onnx", fp8, steps).report
    assert not report.trained


def test_the_table_of_a_spec_has_its_own_format(tmp_path):
    path = tmp_path / "spec.toml"
    path.write_text('profiles = ["tile=1x16x16,1x32x32,1x64x64"]\n[int8]\nformat = "fp8"\n')
    with pytest.raises(RecipeError, match=r"FP8 has a table of its own, \[fp8\]"):
        load_spec(str(path))
    path.write_text('profiles = ["tile=1x16x16,1x32x32,1x64x64"]\n[fp8]\nmax_drop_db = 0.1\n')
    spec = load_spec(str(path)).with_options(fp8=True)
    assert (spec.fp8.max_drop_db, spec.fp8.method, spec.precisions) == (0.1, "max", ("fp32", "fp8"))
