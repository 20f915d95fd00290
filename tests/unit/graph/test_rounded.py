"""Every result of a 16-bit graph rounded, against numpy and against PyTorch's own half precision."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.backends.onnxruntime.rounded import RoundedRunner
from sr_deploy.export.float_format import BF16, FP16
from sr_deploy.export.fp16 import convert_graph_to_format
from sr_deploy.graph.io_dtype import change_io_dtype
from sr_deploy.graph.rounded import insert_rounding
from sr_deploy.model import open_model
from sr_deploy.runners import open_runner

TYPES = {TensorProto.FLOAT16: np.float16, TensorProto.BFLOAT16: ml_dtypes.bfloat16}


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((one.astype(np.float64) - other) ** 2)))


@pytest.mark.parametrize("kind", list(TYPES), ids=["fp16", "bf16"])
def test_each_result_is_rounded_and_nothing_else(kind):
    """(x * k + x) * k with FP32 input and output, where each step rounds; numpy does it step by step."""
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=kind),
        helper.make_node("Mul", ["a", "k"], ["b"]),
        helper.make_node("Transpose", ["b"], ["c"], perm=[0, 1, 3, 2]),
        helper.make_node("Transpose", ["c"], ["d"], perm=[0, 1, 3, 2]),
        helper.make_node("Add", ["d", "a"], ["e"]),
        helper.make_node("Cast", ["e"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "exact"], ["g"]),  # FP32: not rounded
        helper.make_node("Cast", ["g"], ["h"], to=kind),
        helper.make_node("Mul", ["h", "k"], ["i"]),
        helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
    ]
    k, exact = np.array(0.3, TYPES[kind]), np.array(1.0001, np.float32)
    shape = [1, 3, None, None]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(k, "k"), numpy_helper.from_array(exact, "exact")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    insert_rounding(model)
    x = np.random.default_rng(2).random((1, 3, 5, 4), dtype=np.float32)

    def half(values):
        return values.astype(TYPES[kind]).astype(np.float32)

    wide = k.astype(np.float32)
    a = half(x)
    e = half(half(a * wide) + a)
    expected = half(half(e * exact) * wide)
    assert np.array_equal(run(model, x), expected)
    assert not np.array_equal(expected, (a * wide + a) * exact * wide)


@pytest.mark.parametrize(("half", "floor"), [(FP16, 60), (BF16, 40)], ids=["fp16", "bf16"])
def test_it_loses_what_torch_loses_in_true_half(exported, tmp_path, half, floor):
    """ONNX Runtime leaves roundings out and flatters FP16; the rounded graph is within a decibel or so of PyTorch."""
    made = exported("rrdbnet-x4")
    path = tmp_path / "half.onnx"
    convert_graph_to_format(made.path, path, half)
    lr = np.random.default_rng(1).random((1, 3, 32, 32), dtype=np.float32)
    with torch.no_grad():
        expected = made.network(torch.from_numpy(lr)).numpy()
        kind = torch.float16 if half is FP16 else torch.bfloat16
        import copy

        true = copy.deepcopy(made.network).to(kind)(torch.from_numpy(lr).to(kind)).float().numpy()
    with RoundedRunner(open_model(path), half.precision) as runner:
        rounded = runner.infer(lr)
        assert runner.spec.rewrites == ("round-results",)
        assert runner.spec.artifact == path
    assert psnr(rounded, expected) > floor
    assert abs(psnr(rounded, expected) - psnr(true, expected)) < 1.5
    assert psnr(rounded, true) > psnr(true, expected) - 1.5


def test_onnxruntime_runs_bf16_so(exported, tmp_path):
    made = exported("compact-x4")
    path = tmp_path / "bf16.onnx"
    convert_graph_to_format(made.path, path, BF16)
    assert onnx.load(path).opset_import[0].version == 22
    lr = np.random.default_rng(1).random((1, 3, 12, 10), dtype=np.float32)
    with open_runner(path, "onnxruntime:bf16") as runner:
        assert runner.spec.rewrites == ("round-results",)
        assert runner.spec.precision == "bf16"
        sr = runner.infer(lr)
    with torch.no_grad():
        expected = made.network(torch.from_numpy(lr)).numpy()
    assert 38 < psnr(sr, expected) < 80


@pytest.mark.parametrize("io_dtype", ["fp16", "uint8"])
def test_other_io_dtypes_stay_as_they_are(exported, tmp_path, io_dtype):
    path = tmp_path / "half.onnx"
    convert_graph_to_format(exported("compact-x4").path, path, FP16)
    model = onnx.load(path)
    change_io_dtype(model, io_dtype)
    before = [value.SerializeToString() for value in (*model.graph.input, *model.graph.output)]
    insert_rounding(model)
    assert [value.SerializeToString() for value in (*model.graph.input, *model.graph.output)] == before
    onnx.save(model, path)
    lr = np.random.default_rng(1).random((1, 3, 12, 10), dtype=np.float32)
    with open_runner(path, f"onnxruntime:{open_model(path).precisions[0]}") as runner:
        sr = runner.infer(lr)
    with open_runner(exported("compact-x4").path, "onnxruntime") as runner:
        expected = runner.infer(lr)
    assert np.abs(np.clip(sr, 0, 1) - np.clip(expected, 0, 1)).max() < (0.01 if io_dtype == "fp16" else 0.03)


def test_whole_numbers_of_a_quantized_graph_are_taken_as_they_are():
    """Of int8 steps and FP16 scales only the convolution's result is rounded, not what is dequantized."""
    half = TensorProto.FLOAT16
    rng = np.random.default_rng(6)
    constants = {
        "s": np.array(0.0123, np.float16),
        "zero": np.int8(0),
        "w": rng.integers(-127, 128, (3, 3, 1, 1)).astype(np.int8),
        "t": np.array([0.011, 0.013, 0.017], np.float16),
    }
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=half),
        helper.make_node("QuantizeLinear", ["a", "s", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "t"], ["dw"], axis=0),
        helper.make_node("Conv", ["d", "dw"], ["c"]),
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    shape = [1, 3, None, None]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    insert_rounding(model)
    x = rng.random((1, 3, 5, 4), dtype=np.float32)
    s, t = constants["s"].astype(np.float64), constants["t"].astype(np.float64)
    steps = np.clip(np.rint(x.astype(np.float16).astype(np.float64) / s), -128, 127)
    sums = np.einsum("oi,nihw->nohw", constants["w"][:, :, 0, 0].astype(np.float64), steps)
    expected = (sums * s * t.reshape(1, 3, 1, 1)).astype(np.float16).astype(np.float32)
    seen = run(model, x)
    assert np.mean(seen == expected) > 0.9  # a sum in FP32 may fall to the other side of a tie
    assert np.abs(seen - expected).max() <= np.spacing(np.float16(np.abs(expected).max()))
