"""ONNX's Attention written out: the same numbers, counted as products of matrices, and built by TensorRT-RTX."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from sr_deploy.backends import builders
from sr_deploy.bundle import parse_profile
from sr_deploy.engine.bundle import build_engines
from sr_deploy.errors import GraphError
from sr_deploy.graph.load import load_model, load_whole_model, read_without_attention
from sr_deploy.graph.read import describe_graph_cost, describe_layers, read_graph

RANDOM = np.random.default_rng(0)
SIDE = 16


@pytest.fixture
def make_network(make_graph, tools):
    """Writes a network in which the rows of each feature map, or whole feature maps, attend to each other."""

    def make(dtype=np.float32, *, flat=False, mask=None, more=(), results=1, opset=23, sides=("h", "w"), **attributes):
        constants = {
            "w": (RANDOM.normal(size=(24, 3, 3, 3)) * 0.3).astype(dtype),
            "tail": tools.kernel(12, 8, 3, dtype),
            **({} if mask is None else {"mask": mask}),
        }
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4, kernel_shape=[3, 3]),
            helper.make_node("Split", ["c"], ["q", "k", "v"], axis=1, num_outputs=3),
        ]
        attended = ["q", "k", "v"]
        if flat:
            constants["flat"] = np.array([0, 0, -1])
            nodes += [helper.make_node("Reshape", [name, "flat"], [f"{name}_flat"]) for name in attended]
            nodes.append(helper.make_node("Shape", ["q"], ["shape"]))
            attended = [f"{name}_flat" for name in attended]
        inputs = [*attended, *(["mask"] if mask is not None else []), *more]
        outputs = ["a", *(f"more{place}" for place in range(1, results))]
        nodes.append(helper.make_node("Attention", inputs, outputs, name="attend", **attributes))
        if flat:
            nodes.append(helper.make_node("Reshape", ["a", "shape"], ["b"]))
        nodes += [
            helper.make_node("Conv", ["b" if flat else "a", "tail"], ["d"], pads=[1] * 4, kernel_shape=[3, 3]),
            helper.make_node("DepthToSpace", ["d"], ["y"], blocksize=2, mode="CRD"),
        ]
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return make_graph(nodes, constants, dtype=kind, opset=opset, input_shape=("n", 3, *sides))

    return make


def run(model: onnx.ModelProto) -> np.ndarray:
    dtype = helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    image = np.random.default_rng(1).random((1, 3, SIDE, SIDE)).astype(dtype)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": image})[0].astype(np.float32)


FIXED = {"sides": (SIDE, SIDE)}
VARIANTS = {
    "plain": {},
    "scale": {"scale": 0.3},
    "causal": {"is_causal": 1},
    "softcap": {"softcap": 2.0},
    "mask": {"mask": RANDOM.normal(size=(1, 8, SIDE, SIDE)).astype(np.float32), **FIXED},
    "mask of truths": {"mask": RANDOM.random((SIDE, SIDE)) < 0.7, **FIXED},
    "heads in one axis": {"flat": True, "q_num_heads": 2, "kv_num_heads": 2},
    "FP16": {"dtype": np.float16},
    "opset 24": {"opset": 24},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_numbers_stay_the_same(make_network, variant):
    path = make_network(**VARIANTS[variant])
    stored, written = onnx.load(path), load_whole_model(path)
    assert "Attention" not in {node.op_type for node in written.graph.node}
    assert {"MatMul", "Softmax"} <= {node.op_type for node in written.graph.node}
    onnx.checker.check_model(written, full_check=True)
    expected = run(stored)
    assert np.ptp(expected) > 0.5
    assert np.abs(run(written) - expected).max() < (4e-3 if variant == "FP16" else 2e-6) * np.ptp(expected)
    assert read_graph(path).scale == 2


def test_its_products_are_counted(make_network):
    path = make_network()
    layers = describe_layers(path, (1, 32, SIDE))
    assert [layer.flops for layer in layers if layer.op == "MatMul"] == [2 * 8 * 32 * 32 * SIDE] * 2
    assert describe_graph_cost(path).precision_share == {"fp32": 1.0}
    assert describe_graph_cost(path).receptive_radius is None  # every row reaches every other


def test_what_is_not_of_networks_for_images_is_refused_by_name(make_network):
    with pytest.raises(GraphError, match=r"graph1\.onnx: .* 'attend' has past_key and past_value"):
        load_model(make_network(more=("", "k", "v"), results=3))
    with pytest.raises(GraphError, match="Attention 'attend' has present_key and present_value"):
        load_model(make_network(results=3))


def test_many_are_refused_before_they_are_written_out(make_graph):
    nodes = [
        helper.make_node("Attention", [f"a{place}" if place else "x"] * 3, [f"a{place + 1}"]) for place in range(150)
    ]
    nodes.append(helper.make_node("Identity", ["a150"], ["y"]))
    with pytest.raises(GraphError, match="15151 nodes, each Attention written out; 15000 are allowed"):
        load_model(make_graph(nodes, opset=23))


def test_one_in_a_branch_is_refused(make_graph):
    value = helper.make_tensor_value_info
    branch = helper.make_graph(
        [helper.make_node("Attention", ["x", "x", "x"], ["inner"])],
        "branch",
        [],
        [value("inner", TensorProto.FLOAT, None)],
    )
    node = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    with pytest.raises(GraphError, match="Attention in a branch"):
        load_model(make_graph([node], {"yes": np.array(True)}, opset=23))


def test_files_without_any_are_left_as_they_are(make_graph, tools):
    path = make_graph([helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)], {"w": tools.kernel(3, 3, 3)})
    assert read_without_attention(path) is None


@pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize("variant", ["plain", "mask", "heads in one axis", "FP16"])
def test_rtx_builds_it(make_network, variant):
    path = make_network(**VARIANTS[variant])
    shape = f"1x{SIDE}x{SIDE}"
    profile = parse_profile(f"tile={shape},{shape},{shape if variant == 'mask' else '1x32x32'}")
    (record,) = build_engines(path, "tensorrt-rtx", profiles=[profile], compute_capabilities=["sm89", "sm120"]).built
    precision = "fp16" if variant == "FP16" else "fp32"
    assert (list(record.declared.values()), record.multiply_add_shares) == ([precision] * 4, {precision: 1.0})
