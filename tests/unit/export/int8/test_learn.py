"""What is computed with gradients is what ONNX Runtime computes, and what is learned brings the graph back to FP32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.arch.quantized import round_to_levels
from sr_deploy.export.fp16 import convert_model_to_fp16
from sr_deploy.export.int8 import task as task_module
from sr_deploy.export.int8.calibration import measure_ranges, quantize_layers
from sr_deploy.export.int8.differentiable import DifferentiableGraph, Quantized
from sr_deploy.export.int8.execute import open_graph
from sr_deploy.export.int8.insert import insert_quantization
from sr_deploy.export.int8.joins import group_by_step
from sr_deploy.export.int8.learn import learn_layers
from sr_deploy.export.int8.make import make_int8_graph
from sr_deploy.export.int8.placement import place_quantization
from sr_deploy.export.int8.quantization_options import Int8Options
from sr_deploy.export.int8.sensitivity import estimate_errors

pytestmark = pytest.mark.xdist_group("int8")
RANDOM = np.random.default_rng(0)


@pytest.fixture
def task(trained, quick, tmp_path):
    return task_module.make_task(trained[1], tmp_path / "a.onnx", quick, calibration=None, keep_fp32=())


def as_torch(layers) -> dict[str, Quantized]:
    return {
        name: Quantized(
            torch.tensor(layer.input_scale),
            torch.from_numpy(layer.weight.astype(np.float32)),
            torch.from_numpy(layer.weight_scale),
            None if layer.bias is None else torch.from_numpy(layer.bias),
        )
        for name, layer in layers.items()
    }


def test_floats_are_those_of_onnxruntime(each_exported):
    model = onnx.load(each_exported.path)
    channels = next(iter(model.graph.input)).type.tensor_type.shape.dim[1].dim_value
    lr = RANDOM.random((2, channels, 16, 12), dtype=np.float32)
    expected = open_graph(model, "onnxruntime")(lr)["sr"]
    placement = place_quantization(model)
    graph = DifferentiableGraph(model, torch.float32)
    assert np.abs(graph.run(torch.from_numpy(lr)).numpy() - expected).max() < 1e-4 * np.ptp(expected)
    in_bf16 = DifferentiableGraph(model, torch.bfloat16).run(torch.from_numpy(lr)).float().numpy()
    assert np.abs(in_bf16 - expected).max() < 0.1 * np.ptp(expected)
    # And quantized: what the graph with quantizers computes, dense blocks and enlargements included.
    limits = {candidate.data: 2.0 for candidate in placement.candidates}
    layers = quantize_layers(model, placement, limits, Int8Options())
    with torch.no_grad():
        quantized = graph.run(torch.from_numpy(lr), as_torch(layers)).numpy()
    insert_quantization(model, layers)
    stored = open_graph(model, "onnxruntime")(lr)["sr"]
    assert np.abs(stored - expected).max() > 1e-3 * np.ptp(expected)
    # Numbers that lie between two steps may go either way.
    assert np.mean((quantized - stored) ** 2) < 1e-2 * np.mean((stored - expected) ** 2)


def test_onnxruntime_keeps_the_bias_of_a_convolution_whose_result_is_quantized(exported):
    """SPAN has convolutions without an activation behind them; what ONNX Runtime makes of these ruins FP16 graphs."""
    model = onnx.load(exported("span-x2").path)
    lr = RANDOM.random((1, 3, 16, 12), dtype=np.float32)
    placement = place_quantization(model)
    limits = {candidate.data: 0.05 for candidate in placement.candidates}
    insert_quantization(model, quantize_layers(model, placement, limits, Int8Options()))
    convert_model_to_fp16(model, "test")
    written, optimized = (open_graph(model, "onnxruntime", optimize=optimize)(lr)["sr"] for optimize in (False, True))
    assert np.mean((optimized - written) ** 2) < 1e-3 * np.var(written)


def test_dense_blocks_and_enlargements_share_a_step_and_are_quantized_once(exported):
    model = onnx.load(exported("rrdbnet-x4").path)
    placement = place_quantization(model)
    groups = group_by_step(model, (one.data for one in placement.candidates))
    assert sorted({len(parts) for parts in groups.values()}) == [1, 5]
    limits = {one.data: 2.0 for one in placement.candidates}
    insert_quantization(model, quantize_layers(model, placement, limits, Int8Options()))
    quantized = [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantized) == len(set(quantized)) == sum(map(len, set(groups.values())))
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    joins = [node for node in model.graph.node if node.op_type in ("Concat", "Resize")]
    assert {types[node.output[0]] for node in joins} == {TensorProto.INT8}


def test_gradients_of_steps_and_values():
    step = torch.tensor(0.5, requires_grad=True)
    values = torch.tensor([0.6, -100.0, 1.0, 80.0], requires_grad=True)
    levels = round_to_levels(values, step)
    assert levels.tolist() == [1, -128, 2, 127]
    (levels * 0.5 * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert values.grad.tolist() == [1, 0, 3, 0]  # as if there were no rounding, and nothing beyond the range
    # Inside, what rounding added in steps; beyond, the level at the end.
    assert step.grad.item() == pytest.approx(1 * (1 - 1.2) + 2 * -128 + 3 * 0 + 4 * 127, rel=1e-5)


def test_what_is_learned_stays_within_its_bounds_and_is_nearer_to_fp32(task, quick):
    placement = place_quantization(task.model)
    options = quick.model_copy(update={"learn_steps": 40, "percentile": 90.0})  # clips far too much
    task = replace(task, options=options)
    limits = measure_ranges(task.model, placement, task.stream_inputs, options, task.engine)
    layers = quantize_layers(task.model, placement, limits, options)
    learned = learn_layers(task, placement, layers)
    assert not isinstance(learned, str)
    assert all(0.5 <= factor <= 2 for factor in learned.factors.values())
    assert max(learned.factors.values()) > 1.02
    assert {int(one) for moves in learned.moved.values() for one in np.unique(moves)} <= {-1, 0, 1}
    assert any(moves.any() for moves in learned.moved.values())
    wider = {data: limit * learned.factors[data] for data, limit in limits.items()}
    judge = task.open_search_judge()
    after = quantize_layers(task.model, placement, wider, options, learned.moved)
    assert judge.error(task.open_with(after)) < 0.9 * judge.error(task.open_with(layers))


def test_learning_begins_with_wider_ranges_than_calibrated(task, quick):
    placement = place_quantization(task.model)
    task = replace(task, options=quick.model_copy(update={"learn_steps": 1}))
    limits = measure_ranges(task.model, placement, task.stream_inputs, task.options, task.engine)
    learned = learn_layers(task, placement, quantize_layers(task.model, placement, limits, task.options))
    assert not isinstance(learned, str)
    assert all(factor == pytest.approx(1.25, abs=0.01) for factor in learned.factors.values())


def test_estimates_are_near_to_what_each_layer_costs_alone(task, quick):
    placement = place_quantization(task.model)
    limits = measure_ranges(task.model, placement, task.stream_inputs, quick, task.engine)
    layers = quantize_layers(task.model, placement, limits, quick)
    estimated = estimate_errors(task.model, layers, task.stream_search_inputs(), seed=0)
    judge = task.open_search_judge()
    for name, layer in layers.items():
        alone = judge.error(task.open_with({name: layer}))
        assert alone / 4 < estimated[name] < alone * 4


def test_a_graph_without_gradients_is_searched_all_the_same(trained, quick, tmp_path, said):
    model = onnx.load(trained[1])
    last = model.graph.node[-1]
    last.output[0] = "before"
    for name, value in (("lowest", -9.0), ("highest", 9.0)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    model.graph.node.append(helper.make_node("Clip", ["before", "lowest", "highest"], ["sr"], name="clip"))
    onnx.save(model, tmp_path / "clipped.onnx")
    report = make_int8_graph(tmp_path / "clipped.onnx", tmp_path / "a.onnx", quick, force=True)
    assert any("nothing is learned, since no gradient is known for the graph's Clip" in line for line in said)
    assert (report.learned, report.learning) == ({}, {})
    assert all(layer.error > 0 for layer in report.layers if layer.share is not None)
