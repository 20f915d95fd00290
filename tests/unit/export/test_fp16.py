from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.errors import GraphError, InputError
from sr_deploy.export.fp16 import convert_graph_to_fp16, convert_model_to_fp16, round_to_fp16
from sr_deploy.graph.read import read_graph


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = float(np.mean((one.astype(np.float64) - other) ** 2))
    return 10 * np.log10(1 / max(error, 1e-20))


def model_of(nodes, initializers=(), inputs=("x",), kind=TensorProto.FLOAT) -> onnx.ModelProto:
    shape = [1, 3, "h", "w"]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name in inputs],
        [helper.make_tensor_value_info("y", kind, [1, 3, None, None])],
        [numpy_helper.from_array(array, name) for name, array in initializers],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_fp16_graph_is_near_fp32(each_exported, run_graph, tmp_path):
    path = tmp_path / "model.fp16.onnx"
    convert_graph_to_fp16(each_exported.path, path)
    info = read_graph(path)
    lr = np.random.default_rng(1).random((2, info.channels, 24, 20), dtype=np.float32)
    with torch.no_grad():
        expected = each_exported.network(torch.from_numpy(lr)).numpy()
    sr = run_graph(path, lr)
    assert sr.dtype == np.float32
    assert 55 < psnr(sr, expected) < 140  # above: good enough; below: it is not the FP32 graph under another name
    assert (info.precision, info.input_dtype, info.output_dtype) == ("fp16", "float32", "float32")
    assert info.metadata["sr_deploy.precision"] == "fp16"
    assert info.metadata["sr_deploy.arch"] == each_exported.spec.model_dump_json()


def test_everything_inside_is_fp16_but_what_steers_a_resize(exported, tmp_path):
    path = tmp_path / "model.fp16.onnx"
    convert_graph_to_fp16(exported("rrdbnet-x4").path, path)
    fp32, fp16 = onnx.load(exported("rrdbnet-x4").path).graph, onnx.load(path).graph
    counts = Counter(node.op_type for node in fp16.node)
    assert counts.pop("Cast") == 2
    assert counts == Counter(node.op_type for node in fp32.node)
    scales = {node.input[2] for node in fp16.node if node.op_type == "Resize"}
    kinds = {tensor.name: tensor.data_type for tensor in fp16.initializer}
    assert {kinds[name] for name in scales} == {TensorProto.FLOAT}
    assert {kind for name, kind in kinds.items() if name not in scales} == {TensorProto.FLOAT16}
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph.value_info
    assert {value.type.tensor_type.elem_type for value in inferred} == {TensorProto.FLOAT16}


def test_fp16_conversion_gives_the_same_bytes(exported, tmp_path):
    for name in ("a.onnx", "b.onnx"):
        convert_graph_to_fp16(exported("compact-x4").path, tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.array([1.0, 70000.0], np.float32), r"net: tensor 'w' reaches 70000, beyond FP16's 65504"),
        (np.array([1.0, np.inf], np.float32), r"net: tensor 'w' holds NaN or infinity"),
        (np.array([np.nan], np.float32), r"net: tensor 'w' holds NaN or infinity"),
        (np.array([1e-8, -3e-8], np.float32), r"net: tensor 'w' is too small for FP16 \(greatest value 3e-08"),
    ],
)
def test_weights_that_fp16_cannot_hold_are_named(weights, message):
    with pytest.raises(GraphError, match=message):
        round_to_fp16(weights, "w", "net")


def test_small_weights_beside_greater_ones_are_welcome():
    weights = np.array([0.5, 1e-9, 0.0, -1e-6], np.float32)
    assert round_to_fp16(weights, "w", "net").tolist() == weights.astype(np.float16).tolist()
    assert round_to_fp16(np.zeros(4, np.float32), "w", "net").tolist() == [0, 0, 0, 0]


def test_constant_that_steers_and_feeds_is_split():
    scales = np.array([1, 1, 2, 2], np.float32)
    nodes = [
        helper.make_node("Resize", ["x", "", "s"], ["big"], mode="nearest"),
        helper.make_node("ReduceMax", ["s"], ["factor"], keepdims=0),
        helper.make_node("Mul", ["big", "factor"], ["y"]),
    ]
    model = model_of(nodes, [("s", scales)])
    x = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
    expected = run(model, x)
    convert_model_to_fp16(model, "net")
    assert np.array_equal(run(model, x), expected)


def test_constants_in_nodes_and_casts_follow():
    tensor = numpy_helper.from_array(np.full((1, 3, 1, 1), 0.5, np.float32))
    nodes = [
        helper.make_node("Constant", [], ["c"], value=tensor),
        helper.make_node("Constant", [], ["one"], value_float=1.0),
        helper.make_node("Constant", [], ["s"], value_floats=[1.0, 1.0, 3.0, 3.0]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["shape_float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMin", ["shape_float"], ["n"], keepdims=0),
        helper.make_node("Mul", ["x", "c"], ["half"]),
        helper.make_node("Add", ["half", "one"], ["more"]),
        helper.make_node("Mul", ["more", "n"], ["same"]),
        helper.make_node("Resize", ["same", "", "s"], ["y"], mode="nearest"),
    ]
    model = model_of(nodes)
    x = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
    expected = run(model, x)
    convert_model_to_fp16(model, "net")
    assert np.array_equal(run(model, x), expected)


def test_constants_listed_among_the_inputs_follow():
    model = model_of([helper.make_node("Mul", ["x", "k"], ["y"])], [("k", np.full((1, 3, 1, 1), 2, np.float32))])
    model.graph.input.append(helper.make_tensor_value_info("k", TensorProto.FLOAT, [1, 3, 1, 1]))
    convert_model_to_fp16(model, "net")
    assert [node.op_type for node in model.graph.node] == ["Cast", "Mul", "Cast"]
    assert np.array_equal(run(model, np.ones((1, 3, 2, 2), np.float32)), np.full((1, 3, 2, 2), 2, np.float32))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_graphs_of_other_types_are_refused(kind):
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], kind=kind)
    with pytest.raises(GraphError, match=r"net: tensor 'x' is (FLOAT16|DOUBLE); only FP32 graphs become FP16"):
        convert_model_to_fp16(model, "net")


def test_quantised_graphs_are_refused():
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "k"], ["q"], name="quantise_0"),
        helper.make_node("DequantizeLinear", ["q", "k"], ["y"]),
    ]
    with pytest.raises(GraphError, match=r"node 'quantise_0' quantises \(QuantizeLinear\)"):
        convert_model_to_fp16(model_of(nodes, [("k", np.float32(0.1))]), "net")


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.onnx does not exist"):
        convert_graph_to_fp16(tmp_path / "gone.onnx", tmp_path / "out.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(GraphError, match=r"text\.onnx is no ONNX file"):
        convert_graph_to_fp16(tmp_path / "text.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
