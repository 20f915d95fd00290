from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.errors import GraphError, InputError
from sr_deploy.export.fp16 import convert_graph_to_fp16, convert_model_to_fp16, round_to_fp16
from sr_deploy.export.fp16_plan import plan_graph
from sr_deploy.graph.load import infer_types
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
    plan = plan_graph(each_exported.path, each_exported.spec.channels, each_exported.spec.scale)
    convert_graph_to_fp16(each_exported.path, path, plan.names)
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
    with pytest.raises(GraphError, match=r"net: tensor 'x' is (FLOAT16|DOUBLE); only FP32"):
        convert_model_to_fp16(model, "net")


def quantized_model(opset=20):
    """A convolution with int8 weights for each output channel, on an input of one scale."""
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "zero"], ["q"], name="quantize_0"),
        helper.make_node("DequantizeLinear", ["q", "s", "zero"], ["d"], name="dequantize_0"),
        helper.make_node("DequantizeLinear", ["w", "t"], ["dw"], name="dequantize_w", axis=0),
        helper.make_node("Conv", ["d", "dw", "b"], ["c"], name="conv_0", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "d"], ["y"], name="add_0"),
    ]
    constants = [
        ("s", np.float32(1 / 128)),
        ("zero", np.int8(0)),
        ("w", rng.integers(-127, 128, (3, 3, 3, 3)).astype(np.int8)),
        ("t", np.array([1 / 256, 1 / 512, 1 / 1024], np.float32)),
        ("b", np.array([0.5, -0.25, 0.0], np.float32)),
    ]
    model = model_of(nodes, constants)
    model.opset_import[0].version = opset
    return model


def test_quantized_graphs_keep_their_whole_numbers_and_take_fp16_scales():
    model = quantized_model()
    x = np.random.default_rng(1).random((1, 3, 6, 5), dtype=np.float32)
    expected = run(model, x)
    convert_model_to_fp16(model, "net")
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    half, int8 = TensorProto.FLOAT16, TensorProto.INT8
    assert kinds == {"s": half, "zero": int8, "w": int8, "t": half, "b": half}
    assert [node.op_type for node in model.graph.node].count("Cast") == 2
    # These scales are powers of two, so only the quantizer's ties and the result's rounding differ.
    assert np.abs(run(model, x) - expected).max() < 2 / 128


def test_a_planned_convolution_takes_what_is_dequantized_to_fp32():
    model = quantized_model()
    convert_model_to_fp16(model, "net", keep_fp32=["conv_0"])
    nodes = {node.name: node for node in model.graph.node}
    makers = {node.output[0]: node for node in model.graph.node}
    assert [makers[name].op_type for name in nodes["conv_0"].input[:2]] == ["DequantizeLinear"] * 2
    assert makers[nodes["add_0"].input[1]].name == "dequantize_0"  # the FP16 reader keeps its own
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for name, kind in (("conv_0", TensorProto.FLOAT), ("dequantize_0", TensorProto.FLOAT16)):
        node = makers[nodes[name].input[0]] if name == "conv_0" else nodes[name]
        assert kinds[node.input[1]] == kind
    x = np.random.default_rng(1).random((1, 3, 6, 5), dtype=np.float32)
    assert np.abs(run(model, x) - run(quantized_model(), x)).max() < 2 / 128


def test_quantized_graphs_of_old_operator_sets_are_refused():
    with pytest.raises(GraphError, match=r"'quantize_0' .*\(QuantizeLinear\) in operator set 17"):
        convert_model_to_fp16(quantized_model(opset=17), "net")


def chain():
    """Four convolutions in a row with a residual; all names known."""
    rng = np.random.default_rng(5)
    weights = [(f"w{index}", (rng.random((3, 3, 3, 3)) - 0.5).astype(np.float32)) for index in range(4)]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="c0", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w1"], ["b"], name="c1", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="c2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "a"], ["d"], name="sum"),
        helper.make_node("Conv", ["d", "w3"], ["y"], name="c3", pads=[1, 1, 1, 1]),
    ]
    return model_of(nodes, weights)


@pytest.mark.parametrize(
    ("keep", "casts"),
    [
        ((), ["x to 16", "y to 32"]),
        (("c1",), ["x to 16", "a to 32", "b to 16", "y to 32"]),
        (("c1", "c2"), ["x to 16", "a to 32", "c to 16", "y to 32"]),  # none between neighbors
        (("c0",), ["a to 16", "y to 32"]),  # it reads the FP32 input as it is; one cast for both readers of its result
        (("c3",), ["x to 16", "d to 32"]),
        (("c0", "c1", "c2", "sum", "c3"), []),
    ],
    ids=str,
)
def test_casts_stand_at_the_borders_of_what_is_kept_only(keep, casts):
    model = chain()
    x = np.random.default_rng(1).random((1, 3, 6, 5), dtype=np.float32)
    expected = run(model, x)
    convert_model_to_fp16(model, "net", keep_fp32=keep)
    seen = [node for node in model.graph.node if node.op_type == "Cast"]
    words = [f"{node.input[0].removesuffix('_fp16')} to {16 if node.attribute[0].i == 10 else 32}" for node in seen]
    assert words == casts
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds == {f"w{i}": TensorProto.FLOAT if f"c{i}" in keep else TensorProto.FLOAT16 for i in range(4)}
    sr = run(model, x)
    assert psnr(sr, expected) > 60
    assert np.array_equal(sr, expected) == (len(keep) == 5)


def test_an_output_that_is_read_again_and_constants_of_both_sides_are_parted():
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["y"], name="half"),
        helper.make_node("Constant", [], ["one"], value_float=1.0, name="one"),
        helper.make_node("Mul", ["y", "k"], ["z"], name="kept"),
        helper.make_node("Add", ["z", "one"], ["u"], name="more"),
        helper.make_node("Add", ["u", "one"], ["v"], name="kept_too"),
    ]
    model = model_of(nodes, [("k", np.full((1, 3, 1, 1), 3, np.float32))])
    model.graph.output.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 3, None, None]))
    x = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
    convert_model_to_fp16(model, "net", keep_fp32=["kept", "kept_too"])
    onnx.checker.check_model(model, full_check=True)
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y, v = session.run(["y", "v"], {"x": x})
    assert np.array_equal(y, 3 * x)
    assert np.array_equal(v, 9 * x + 2)
    assert {tensor.name: tensor.data_type for tensor in model.graph.initializer} == {"k": 1, "k.fp16": 10}


def test_what_steers_a_resize_is_computed_in_fp32():
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["sides"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["sides", "factor"], ["more"]),
        helper.make_node("Div", ["more", "sides"], ["s"]),
        helper.make_node("Resize", ["x", "", "s"], ["y"], mode="nearest"),
    ]
    model = model_of(nodes, [("factor", np.array([1, 1, 3, 3], np.float32))])
    x = np.ones((1, 3, 2, 2051), np.float32)  # a side that FP16 does not hold
    convert_model_to_fp16(model, "net")
    assert run(model, x).shape == (1, 3, 6, 6153)
    assert [node.op_type for node in model.graph.node].count("Cast") == 3


def test_unknown_nodes_to_keep_are_named():
    with pytest.raises(GraphError, match=r"net has 0 nodes named 'conv_9'; one was to stay FP32"):
        convert_model_to_fp16(chain(), "net", keep_fp32=["conv_9"])


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.onnx does not exist"):
        convert_graph_to_fp16(tmp_path / "gone.onnx", tmp_path / "out.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(GraphError, match=r"text\.onnx is not an ONNX file"):
        convert_graph_to_fp16(tmp_path / "text.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_places_that_pixels_are_read_from_stay_fp32(exported, run_graph, tmp_path):
    """In FP16 there are no half pixels from 1024 on: the right end of a wide picture would be of its neighbors."""
    path, spec = tmp_path / "model.fp16.onnx", exported("realplksr-x3").spec
    plan = plan_graph(exported("realplksr-x3").path, spec.channels, spec.scale)
    assert [one.op for one in plan.kept if "a place to read from" in one.reason] == ["Conv", "Conv"]
    convert_graph_to_fp16(exported("realplksr-x3").path, path, plan.names)
    model = onnx.load(path)
    types = infer_types(model)
    (sample,) = (node for node in model.graph.node if node.op_type == "GridSample")
    assert [types[name] for name in sample.input] == [TensorProto.FLOAT, TensorProto.FLOAT]
    lr = np.random.default_rng(1).random((1, 3, 8, 1500), dtype=np.float32)
    fp32, fp16 = run_graph(exported("realplksr-x3").path, lr), run_graph(path, lr)
    assert psnr(fp16[..., -1500:], fp32[..., -1500:]) > 55
