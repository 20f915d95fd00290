"""Graphs against the graph that they were made from, with quantization and casts between."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sr_deploy.export.fp16 import convert_graph_to_fp16
from sr_deploy.export.int8.formats import FP8, INT8
from sr_deploy.export.int8.insert import QuantizedConv, insert_quantization, quantize_weight
from sr_deploy.export.int8.quantization_options import Fp8Options, Int8Options
from sr_deploy.export.int8.search_report import Int8Report, LayerReport
from sr_deploy.verification.align import GraphView, align_graphs
from sr_deploy.verification.audit import Terms, audit_graph

STEP = 2.0**-7
"""Held by FP16, as all steps are."""
PLAIN = Terms()


@pytest.fixture(scope="module")
def plain(exported):
    return exported("compact-x4").path


def quantize(plain, target, *, shift=0.0, per_channel=True, numbers=INT8):
    """Quantized where P's placement would put it: every convolution but the first and the last."""
    model = onnx.load(plain)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    layers = {}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    for node in convolutions[1:-1]:
        levels, scale = quantize_weight(tensors[node.input[1]], per_channel=per_channel, numbers=numbers)
        layers[node.name] = QuantizedConv(STEP, levels, scale, tensors[node.input[2]] + np.float32(shift))
    insert_quantization(model, layers)
    for entry in model.metadata_props:
        entry.value = numbers.name if entry.key == "sr_deploy.precision" else entry.value
    onnx.save(model, target)
    return target, Terms(numbers.name, search=report_layers(convolutions, layers, shift, numbers.name))


def report_layers(convolutions, layers, shift, name):
    """What `int8.json` or `fp8.json` would say."""

    precision, options = name, Int8Options(rest="fp32") if name == "int8" else Fp8Options(rest="fp32")

    def describe(name):
        if name not in layers:
            return LayerReport(name=name, precision="float", why="by rule")
        bias = tuple(map(float, layers[name].bias))
        return LayerReport(name=name, precision=precision, why="", step=STEP, zero_point=0, bias=bias)

    return Int8Report(
        passed=True,
        forced=False,
        share=0.5,
        drop_db=0.0,
        max_abs=0.0,
        psnr_fp32_db=50.0,
        fp32_psnr_db=30.0,
        options=options,
        photographs="none (0)",
        measured_with="nothing",
        equalized={},
        shifts={name: (shift,) * len(layer.bias) for name, layer in layers.items()} if shift else {},
        corrections={},
        layers=tuple(describe(node.name) for node in convolutions),
        curve=(),
        picture="int8-search.svg",
    )


def change(path, suffix, edit):
    model = onnx.load(path)
    tensor = next(one for one in model.graph.initializer if one.name.endswith(suffix))
    tensor.CopyFrom(numpy_helper.from_array(edit(numpy_helper.to_array(tensor).copy()), tensor.name))
    onnx.save(model, path)
    return tensor.name


def findings(path, plain, terms=PLAIN):
    return audit_graph(path, plain, "model.fp32.onnx", terms).findings


@pytest.mark.parametrize("numbers", [INT8, FP8], ids=lambda one: one.name)
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_quantized_graph_passes(plain, tmp_path, per_channel, numbers):
    path, terms = quantize(plain, tmp_path / "q.onnx", shift=1e-3, per_channel=per_channel, numbers=numbers)
    check = audit_graph(path, plain, "model.fp32.onnx", terms)
    assert check.findings == ()
    assert check.what.startswith(f"{len(GraphView(onnx.load(plain)).nodes)} nodes and ")


def test_a_halved_quantized_graph_passes_too(plain, tmp_path):
    path, terms = quantize(plain, tmp_path / "q.onnx")
    half = tmp_path / "h.onnx"
    convert_graph_to_fp16(path, half)
    assert terms.search is not None
    rest = terms.search.model_copy(update={"options": Int8Options(rest="fp16")})
    assert findings(half, plain, Terms("int8", search=rest)) == ()
    assert any("gives FLOAT16 where FLOAT is due" in line for line in findings(half, plain, terms))


def test_a_level_a_step_and_a_bias_that_are_wrong_are_named(plain, tmp_path):
    def raise_one(levels):
        levels[3, 2, 1, 0] += 2
        return levels

    path, terms = quantize(plain, tmp_path / "a.onnx")
    name = change(path, ".int8", raise_one)
    (line,) = findings(path, plain, terms)
    assert name in line
    assert "1 of 576 values differ beyond rounding, most at (3, 2, 1, 0)" in line

    path, terms = quantize(plain, tmp_path / "b.onnx")
    change(path, "weight.scale", lambda scale: scale * np.float32(1.05))
    lines = findings(path, plain, terms)
    assert any("8 of 8 quantization steps are longer than the weights ask for" in line for line in lines)

    path, terms = quantize(plain, tmp_path / "c.onnx", shift=1e-3)
    change(path, "conv_1.bias", lambda biases: biases + np.float32(0.01))
    (line,) = findings(path, plain, terms)
    assert "the bias of Conv 'conv_1': 8 of 8 values are wrong, first at 0" in line
    assert "int8.json records" in line


def test_an_fp8_number_may_be_as_far_off_as_its_neighbors_where_it_lies(plain, tmp_path):
    """Both greatest and least weights are held to half the distance there, or to all of it where it was learned."""
    path, terms = quantize(plain, tmp_path / "a.onnx", numbers=FP8)
    learned = Terms("fp8", search=terms.search.model_copy(update={"learned": {"x": 1.0}}))
    stored = next(one for one in onnx.load(path).graph.initializer if one.name.endswith("weight.fp8"))
    sizes = np.abs(FP8.rank(numpy_helper.to_array(stored)))
    for place in (np.unravel_index(sizes.argmax(), sizes.shape), np.unravel_index(sizes.argmin(), sizes.shape)):
        for moves, allowed in ((1, learned), (3, None)):
            path, _ = quantize(plain, tmp_path / "b.onnx", numbers=FP8)
            towards_zero = np.zeros(sizes.shape, np.int8)
            towards_zero[place] = moves if FP8.rank(numpy_helper.to_array(stored))[place] <= 0 else -moves
            change(path, "weight.fp8", lambda values, by=towards_zero: FP8.move(values, by))
            (line,) = findings(path, plain, terms)
            assert f"1 of {sizes.size} values differ beyond rounding, most at {tuple(map(int, place))}" in line
            assert findings(path, plain, learned) == (() if allowed is learned else (line,))


def test_fp8_is_told_from_int8(plain, tmp_path):
    """A graph in one format under the report and the name of the other."""
    path, _ = quantize(plain, tmp_path / "a.onnx")
    _, terms = quantize(plain, tmp_path / "b.onnx", numbers=FP8)
    lines = findings(path, plain, terms)
    assert any("does not quantize to fp8" in line for line in lines)
    assert any("is int8, not float8_e4m3fn" in line for line in lines)


def test_another_network_is_no_mere_difference_of_numbers(plain, exported):
    lines = findings(exported("rrdbnet-x4").path, plain)
    assert any("node 1 is Conv 'conv_1' where PRelu 'prelu_0' is due" in line for line in lines)
    assert any("'rrdbnet'" in line or "rrdbnet" in line for line in lines)  # its metadata say so too
    first, second = GraphView(onnx.load(plain)), GraphView(onnx.load(exported("rrdbnet-x4").path))
    assert align_graphs(first, second).mismatch is not None
    assert align_graphs(first, first).mismatch is None


def test_a_left_out_node_is_found(plain, tmp_path):
    model = onnx.load(plain)
    node = next(node for node in model.graph.node if node.op_type == "PRelu")
    for other in model.graph.node:
        other.input[:] = [node.input[0] if name == node.output[0] else name for name in other.input]
    model.graph.node.remove(node)
    onnx.save(model, tmp_path / "short.onnx")
    assert any("node" in line and "is due" in line for line in findings(tmp_path / "short.onnx", plain))


def test_numbers_that_are_none_are_found(plain, tmp_path):
    path = tmp_path / "half.onnx"
    convert_graph_to_fp16(plain, path)
    name = change(path, "body.0.weight", lambda weights: np.where(weights == weights.max(), np.nan, weights))
    (line,) = findings(path, plain, Terms("fp16"))
    assert name in line
    assert "1 of 216 values differ beyond rounding" in line
