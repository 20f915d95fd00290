from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.deps import is_installed
from sr_deploy.errors import GraphError
from sr_deploy.export.fp16 import convert_model_to_fp16
from sr_deploy.export.int8 import execute
from sr_deploy.export.int8.execute import open_graph
from sr_deploy.export.int8.insert import QuantizedConv, choose_scale, insert_quantization, quantize_weight
from sr_deploy.measure import machine
from sr_deploy.measure.machine import has_multiplier

RANDOM = np.random.default_rng(0)


def model_of(nodes, constants) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, None, "h", "w"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A 3x3 convolution with padding 1, written out."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = x.shape[2:]
    taps = (
        np.einsum("oi,nihw->nohw", weight[:, :, i, j], padded[:, :, i : i + height, j : j + width])
        for i in range(3)
        for j in range(3)
    )
    return sum(taps) + bias[None, :, None, None]


def require_exact_openvino() -> None:
    pytest.importorskip("openvino")
    if not has_multiplier("int8"):
        pytest.skip("OpenVINO adds products of INT8 in 16 bits on this CPU, where they saturate")


def test_the_search_runs_where_int8_is_exact(monkeypatch):
    for exact, engine in ((True, "openvino" if is_installed("openvino") else "onnxruntime"), (False, "onnxruntime")):
        monkeypatch.setattr(machine, "has_multiplier", lambda precision, exact=exact: exact)
        assert execute.choose_engine() == engine


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_quantized_convolution_computes_what_is_written(per_channel, engine):
    if engine == "openvino":
        require_exact_openvino()
    weight = (RANDOM.standard_normal((4, 3, 3, 3)) * [[[[0.1]]], [[[1]]], [[[3]]], [[[0.01]]]]).astype(np.float32)
    bias = RANDOM.standard_normal(4).astype(np.float32)
    model = model_of(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv", pads=[1] * 4)], {"w": weight, "b": bias}
    )
    stored, scale = quantize_weight(weight, per_channel=per_channel)
    step = float(choose_scale(1.5))
    insert_quantization(model, {"conv": QuantizedConv(step, stored, scale, bias + np.float32(0.5))})
    x = (RANDOM.random((1, 3, 7, 9), dtype=np.float32) - 0.5) * 5  # some of it beyond the range, on both sides
    q = np.clip(np.rint(x / np.float32(step)), -128, 127)
    assert q.min() == -128
    assert q.max() == 127
    expected = convolve(q * step, stored * scale.reshape(-1, 1, 1, 1).astype(np.float64), bias + 0.5)
    onnx.checker.check_model(model, full_check=True)
    assert np.abs(open_graph(model, engine)(x)["y"] - expected).max() < 1e-4
    assert scale.shape == ((4,) if per_channel else ())
    assert np.abs(stored * scale.reshape(-1, 1, 1, 1) - weight).max() <= scale.max() / 2


def test_scales_are_numbers_of_fp16_that_reach_the_limit():
    limits = np.concatenate([RANDOM.random(500) * 200, 2.0 ** -np.arange(12), [0.0]])
    scales = choose_scale(limits)
    assert np.array_equal(scales.astype(np.float16).astype(np.float32), scales)
    assert (scales * 127.0 >= limits).all()
    normal = limits > 0.01
    assert (scales[normal] * 127 <= limits[normal] * (1 + 2**-9)).all()
    assert scales[-1] > 0


def dense_model(second_reader: bool = False) -> onnx.ModelProto:
    constants = {
        "w0": RANDOM.standard_normal((8, 3, 3, 3)).astype(np.float32) * 0.3,
        "w1": RANDOM.standard_normal((8, 8, 3, 3)).astype(np.float32) * 0.1,
        "w2": RANDOM.standard_normal((8, 16, 3, 3)).astype(np.float32) * 0.1,
        "w3": RANDOM.standard_normal((8, 8, 3, 3)).astype(np.float32) * 0.1,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="first", pads=[1] * 4),
        helper.make_node("Conv", ["a", "w1"], ["c"], name="one", pads=[1] * 4),
        helper.make_node("Conv", ["a", "w3"], ["e"], name="three", pads=[1] * 4),
        helper.make_node("LeakyRelu", ["c"], ["b"], name="act", alpha=0.2),
        helper.make_node("Concat", ["a", "b"], ["k"], name="join", axis=1),
        helper.make_node("Conv", ["k", "w2"], ["d"], name="two", pads=[1] * 4),
        helper.make_node("Sum", ["d", "a", "e"], ["y"], name="sum"),
    ]
    if second_reader:
        nodes[-1:] = [
            helper.make_node("ReduceMean", ["k"], ["m"], name="mean", keepdims=1),
            helper.make_node("Sum", ["d", "a", "e", "m"], ["y"], name="sum"),
        ]
    return model_of(nodes, constants)


def quantized_dense(second_reader: bool = False) -> onnx.ModelProto:
    model = dense_model(second_reader)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    layers = {}
    for name, weight, limit in (("one", "w1", 2.0), ("three", "w3", 2.0), ("two", "w2", 3.0)):
        stored, scale = quantize_weight(tensors[weight], per_channel=True)
        layers[name] = QuantizedConv(float(choose_scale(limit)), stored, scale, None)
    insert_quantization(model, layers)
    return model


def test_only_convolutions_inputs_are_quantized_and_readers_of_one_tensor_share():
    model = quantized_dense()
    counts: dict[str, int] = {}
    for node in model.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    # a for `one` and `three` together, a and b for `two`; one way back for each input and each weight
    assert counts == {"QuantizeLinear": 3, "DequantizeLinear": 5, "Conv": 4, "LeakyRelu": 1, "Concat": 1, "Sum": 1}
    by_name = {node.name: node for node in model.graph.node}
    assert list(by_name["sum"].input) == ["d", "a", "e"]
    assert by_name["act"].input[0] == "c"
    assert by_name["first"].input[0] == "x"
    zeros = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert zeros[node.input[2]].dtype == np.int8
            assert zeros[node.input[2]] == 0


@pytest.mark.parametrize("second_reader", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_openvino_and_onnxruntime_agree_on_concatenations(second_reader, half):
    """OpenVINO 2026.4 cuts negative numbers off where a concatenation is quantized as a whole."""
    require_exact_openvino()
    model = quantized_dense(second_reader)
    if half:
        convert_model_to_fp16(model, "net")
    onnx.checker.check_model(model, full_check=True)
    x = RANDOM.random((1, 3, 20, 24), dtype=np.float32)
    one, other = (open_graph(model, engine)(x)["y"] for engine in ("openvino", "onnxruntime"))
    assert np.std(one) > 0.1
    error = 10 * np.log10(np.mean((one - other) ** 2) / np.mean(other**2))
    assert error < (-40 if half else -50)  # single numbers that lie between two steps may go either way


def test_quantized_concatenation_equals_that_of_its_parts():
    whole = quantized_dense()
    x = RANDOM.random((1, 3, 11, 9), dtype=np.float32)
    plain = open_graph(whole, "onnxruntime")(x)["y"]
    nodes = {node.name: node for node in whole.graph.node}
    join = next(node for node in whole.graph.node if node.op_type == "Concat")
    back = next(node for node in whole.graph.node if join.output[0] in node.input)
    quantizers = {node.output[0]: node for node in whole.graph.node if node.op_type == "QuantizeLinear"}
    parts = [quantizers[name] for name in join.input]
    assert [part.input[0] for part in parts] == ["a", "b"]
    assert {part.input[1] for part in parts} == {back.input[1]}  # one step for all of it
    join.input[:] = ["a", "b"]
    quantize = helper.make_node("QuantizeLinear", [join.output[0], *parts[0].input[1:]], ["whole"])
    back.input[0] = "whole"
    place = list(whole.graph.node).index(back)
    whole.graph.node.insert(place, quantize)
    del nodes
    assert np.array_equal(open_graph(whole, "onnxruntime")(x)["y"], plain)


def test_a_layer_that_is_not_there_is_named():
    stored, scale = quantize_weight(np.ones((1, 1, 1, 1), np.float32), per_channel=True)
    with pytest.raises(GraphError, match=r"net has no convolution 'gone' with a constant weight"):
        insert_quantization(dense_model(), {"gone": QuantizedConv(1.0, stored, scale, None)}, "net")
