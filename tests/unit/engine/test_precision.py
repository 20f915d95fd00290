"""What a graph and an engine of it declare to compute in, layer by layer, and what of that nobody planned."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.backends import builders
from sr_deploy.bundle import GraphRecord, parse_profile
from sr_deploy.engine.build import build_engine
from sr_deploy.engine.precision import find_unplanned, find_unplanned_nodes, judge_layers, list_work
from sr_deploy.engine.request import EngineRequest
from sr_deploy.errors import BackendError
from sr_deploy.files import sha256_of

needs_rtx = pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def make_mixed_graph(path):
    """Three convolutions of 3 to 8, 8 to 8 and 8 to 3 channels: in FP32, INT8 and FP16."""
    random = np.random.default_rng(0)
    constants, nodes = [], []

    def constant(name, array):
        constants.append(numpy_helper.from_array(array, name))
        return name

    def weight(name, shape, kind):
        return constant(name, (0.1 * random.standard_normal(shape)).astype(kind))

    def add(kind, inputs, output, **attributes):
        nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))

    add("Conv", ["lr", weight("w0", (8, 3, 3, 3), np.float32)], "conv_0", pads=[1, 1, 1, 1])
    add("Cast", ["conv_0"], "half", to=HALF)
    scale, zero = constant("scale", np.float16(0.05)), constant("zero", np.int8(0))
    scales, zeros = constant("scales", np.full(8, 0.01, np.float16)), constant("zeros", np.zeros(8, np.int8))
    quantized = constant("w1", random.integers(-127, 128, (8, 8, 3, 3)).astype(np.int8))
    add("QuantizeLinear", ["half", scale, zero], "q")
    add("DequantizeLinear", ["q", scale, zero], "dq")
    add("DequantizeLinear", [quantized, scales, zeros], "dqw", axis=0)
    add("Conv", ["dq", "dqw"], "conv_1", pads=[1, 1, 1, 1])
    add("Conv", ["conv_1", weight("w2", (3, 8, 3, 3), np.float16)], "conv_2", pads=[1, 1, 1, 1])
    add("Cast", ["conv_2"], "sr", to=FLOAT)
    values = [helper.make_tensor_value_info(name, FLOAT, ["n", 3, "h", "w"]) for name in ("lr", "sr")]
    graph = helper.make_graph(nodes, "mixed", values[:1], values[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return GraphRecord(file=path.name, sha256=sha256_of(path), precision="int8", planned_fp32=("conv_0",))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    path = tmp_path_factory.mktemp("mixed") / "model.int8.onnx"
    return path, make_mixed_graph(path)


def request_for(path, graph):
    return EngineRequest(
        graph=path,
        graph_sha256=graph.sha256,
        precision=graph.precision,
        backend="tensorrt-rtx",
        profiles=(parse_profile("tile=1x8x8,1x16x16,1x32x32"),),
        compute_capabilities=("sm89",),
        planned_fp32=graph.planned_fp32,
    )


@needs_rtx
def test_shares_of_the_multiply_adds_come_from_the_parsed_network(mixed):
    path, graph = mixed
    record = build_engine(request_for(path, graph)).record
    assert record.declared == {"conv_0": "fp32", "conv_1": "int8", "conv_2": "fp16"}
    # 3 x 8, 8 x 8 and 8 x 3 channels under the same kernel
    assert record.multiply_add_shares == pytest.approx({"int8": 64 / 112, "fp32": 24 / 112, "fp16": 24 / 112})
    assert next(iter(record.multiply_add_shares)) == "int8"
    assert find_unplanned(record, graph) == []


@needs_rtx
def test_a_layer_that_nobody_planned_stops_the_build_and_fails_the_record(mixed):
    path, graph = mixed
    unplanned = graph.model_copy(update={"planned_fp32": ()})
    with pytest.raises(BackendError, match=r"conv_0 computes in fp32, and the graph is to be int8$"):
        build_engine(request_for(path, unplanned))
    record = build_engine(request_for(path, graph)).record
    assert find_unplanned(record, unplanned) == ["conv_0 computes in fp32, and the graph is to be int8"]
    as_fp16 = graph.model_copy(update={"precision": "fp16"})
    assert find_unplanned(record, as_fp16) == ["conv_1 computes in int8, and the graph is to be fp16"]


def test_the_graph_alone_says_the_same(mixed):
    path, graph = mixed
    assert {layer.name: layer.precision for layer in list_work(path)} == {
        "conv_0": "fp32",
        "conv_1": "int8",
        "conv_2": "fp16",
    }
    assert find_unplanned_nodes(path, graph) == []
    unplanned = graph.model_copy(update={"planned_fp32": ("conv_2",)})
    assert find_unplanned_nodes(path, unplanned) == ["conv_0 computes in fp32, and the graph is to be int8"]


@needs_rtx
def test_an_fp32_graph_under_another_name_is_found_in_graph_and_record(exported):
    path = exported("compact-x1").path
    graph = GraphRecord(file=path.name, sha256=sha256_of(path), precision="fp32")
    record = build_engine(request_for(path, graph)).record
    for label in ("fp16", "int8"):
        wrong = graph.model_copy(update={"precision": label})
        lines = [f"conv_{index} computes in fp32, and the graph is to be {label}" for index in range(3)]
        if label == "int8":
            lines.append("no layer computes in int8, and the graph is to be int8")
        assert find_unplanned_nodes(path, wrong) == lines
        assert find_unplanned(record, wrong) == lines
    old = record.model_copy(update={"declared": {}})  # as an older sr-deploy wrote it
    assert find_unplanned(old, graph) == []
    (line,) = find_unplanned(old, graph.model_copy(update={"precision": "fp16"}))
    assert line == "3 convolution(s) compute in fp32, and the graph is to be fp16"


def test_int8_needs_a_layer_in_int8_and_allows_fp16():
    assert judge_layers({"a": "int8", "b": "fp16"}, "int8", ()) == []
    assert judge_layers({"b": "fp16"}, "int8", ()) == ["no layer computes in int8, and the graph is to be int8"]
    assert judge_layers({"a": "fp16"}, "fp16", ("a",)) == []
    assert judge_layers({"a": "bf16"}, "fp16", ("a",)) == ["a computes in bf16, and the graph is to be fp16"]
