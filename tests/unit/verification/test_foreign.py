"""Anybody's graphs: one image in, one image out, made here without PyTorch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.backends import BackendChoice, builders
from sr_deploy.bench.run import bench_model
from sr_deploy.bundle import Shape, parse_profile
from sr_deploy.cli import main
from sr_deploy.engine.bundle import build_engines
from sr_deploy.files import sha256_of
from sr_deploy.model import open_model
from sr_deploy.verification.verify import verify_model

needs_rtx = pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")
SHAPES = {
    "dynamic": ("n", "h", "w"),
    "fixed": (1, 20, 24),
    "fixed sides": ("n", 20, 24),
    "fixed width": ("n", "h", 24),
    "fixed height": (1, 20, "w"),
}


def make_graph(path, *, channels=3, shape="dynamic", opset=22, half=False, fp16_io=False, listed=False):
    """Convolution, activation, convolution, pixel shuffle by 2, as other exporters write them."""
    draw = np.random.default_rng(3)
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    dtype = np.float16 if half else np.float32
    io_kind = TensorProto.FLOAT16 if fp16_io else TensorProto.FLOAT

    def constant(name, *dims):
        return numpy_helper.from_array((draw.normal(0, 0.2, dims)).astype(dtype), name)

    constants = [constant("w1", 8, channels, 3, 3), constant("b1", 8), constant("w2", 4 * channels, 8, 3, 3)]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("LeakyRelu", ["c1"], ["a1"], alpha=0.1),
        helper.make_node("Conv", ["a1", "w2"], ["c2"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("DepthToSpace", ["c2"], ["y"], blocksize=2, mode="CRD"),
    ]
    if half and not fp16_io:
        for node in nodes:
            node.input[:] = ["x16" if name == "x" else name for name in node.input]
            node.output[:] = ["y16" if name == "y" else name for name in node.output]
        nodes.insert(0, helper.make_node("Cast", ["x"], ["x16"], to=kind))
        nodes.append(helper.make_node("Cast", ["y16"], ["y"], to=TensorProto.FLOAT))
    n, h, w = SHAPES[shape]
    inputs = [helper.make_tensor_value_info("x", io_kind, [n, channels, h, w])]
    if listed:
        inputs += [helper.make_tensor_value_info(one.name, kind, one.dims) for one in constants]
    outputs = [helper.make_tensor_value_info("y", io_kind, [None, channels, None, None])]
    graph = helper.make_graph(nodes, "foreign", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="somebody")
    model.ir_version = 6 if opset == 11 else 10
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


FOREIGN = {
    "opset 11, constants listed": {"opset": 11, "listed": True},
    "opset 22": {},
    "fixed shape": {"shape": "fixed"},
    "fixed sides": {"shape": "fixed sides"},
    "fixed width": {"shape": "fixed width"},
    "fixed height": {"shape": "fixed height"},
    "gray": {"channels": 1},
    "fp16 inside": {"half": True},
    "fp16 throughout, gray, fixed": {"half": True, "fp16_io": True, "channels": 1, "shape": "fixed"},
    "fp16, opset 11": {"half": True, "fp16_io": True, "opset": 11},
}


@pytest.fixture(params=FOREIGN.values(), ids=FOREIGN)
def foreign(request, tmp_path):
    return make_graph(tmp_path / "foreign.onnx", **request.param), request.param


def test_every_kind_is_verified_against_fp32(foreign):
    path, made = foreign
    verification = verify_model(path)
    assert verification.passed
    half = made.get("half", False)
    backends = [entry.backend for entry in verification.entries]
    assert backends == (
        ["onnxruntime:fp16", "onnxruntime:fp16 rounded", "openvino:fp32"]
        if half
        else ["onnxruntime:fp32", "openvino:fp32"]
    )
    for entry in verification.entries:
        said = "onnxruntime:fp32, graph widened from fp16" if half else "onnxruntime:fp32, graph as written"
        assert entry.reference == said
        assert entry.reference_sha256 == sha256_of(path)
    if half:  # not compared with itself
        assert 1e-5 < max(entry.worst_max_abs for entry in verification.entries) < 0.01
    (error_budget,) = verification.error_budgets
    assert [stage.name for stage in error_budget.stages[-2:]] == ["tiled", "8-bit file"]
    assert [file.name for file in path.parent.iterdir()] == ["foreign.onnx"]


def test_every_kind_is_timed(foreign):
    path, made = foreign
    precision = "fp16" if made.get("half") else "fp32"
    report = bench_model(
        path, shapes=[Shape(1, 20, 24)], choices=[f"onnxruntime:{precision}"], seconds_each=0.05, threads=1
    )
    assert [result.candidate for result in report.results] == [f"onnxruntime:{precision}"]
    assert report.results[0].median_ms > 0


@needs_rtx
def test_every_kind_is_built_and_its_engine_checked(foreign):
    path, made = foreign
    most = "1x20x24" if made.get("shape") == "fixed height" else "2x20x24"
    profiles = () if made.get("shape") == "fixed" else (parse_profile(f"tile=1x20x24,1x20x24,{most}"),)
    (record,) = build_engines(path, "tensorrt-rtx", profiles=profiles, compute_capabilities=["sm89"]).built
    assert record.precision == ("fp16" if made.get("half") else "fp32")
    verification = verify_model(path, choices=[BackendChoice("onnxruntime", record.precision)])
    (check,) = [check for check in verification.checks if check.kind == "engine"]
    assert check.findings == ()
    assert "built here with tensorrt-rtx" in check.what
    assert "of foreign.onnx" in check.what


def test_a_wrong_reference_is_not_hidden_by_comparing_fp16_with_itself(tmp_path):
    """A graph whose FP16 overflows is far from what its numbers say."""
    path = make_graph(tmp_path / "large.onnx", half=True, fp16_io=True)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "w1":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float16(60000), "w1"))
    onnx.save(model, path)
    assert main(["verify", str(path)]) == 3
    assert open_model(path).precisions == ("fp16",)
