"""The published networks: equal to PyTorch after every set of rewrites, cheaper by count, and built by TensorRT-RTX."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from sr_deploy.arch.registry import input_multiple
from sr_deploy.backends import builders
from sr_deploy.bundle import parse_profile
from sr_deploy.engine.build import build_engine
from sr_deploy.engine.request import EngineRequest
from sr_deploy.export.fp16 import convert_graph_to_fp16
from sr_deploy.files import sha256_of
from sr_deploy.graph.read import describe_graph_cost, read_graph
from sr_deploy.graph.rewrite import (
    DEFAULT,
    FOR_ONNXRUNTIME,
    FOR_OPENVINO,
    FOR_OPENVINO_BF16,
    NOTHING,
    apply_rewrites,
    rewrite_model,
)

SETS = {
    "default": DEFAULT,
    "openvino": FOR_OPENVINO,
    "openvino-bf16": FOR_OPENVINO_BF16,
    "onnxruntime": FOR_ONNXRUNTIME,
}
FIRST = {
    "compact-x4": {"nearest_skip": 1},
    "rrdbnet-x4": {"scales": 3, "narrow_output": 1},
    "rrdbnet-x2": {"scales": 3, "narrow_output": 1},
}


def rewrite_file(source, options, target):
    model = onnx.load(source)
    report = rewrite_model(model, options)
    onnx.checker.check_model(model)
    onnx.save(model, target)
    return report


@pytest.mark.parametrize("chosen", SETS)
def test_every_network_agrees_with_pytorch(each_exported, run_graph, tmp_path, chosen):
    path = tmp_path / "new.onnx"
    rewrite_file(each_exported.path, SETS[chosen], path)
    spec, multiple = each_exported.spec, input_multiple(each_exported.spec)
    for n, h, w in ((1, 1, 1), (1, 1, 7), (2, 5, 3), (1, 24, 17)):
        shape = (n, spec.channels, h * multiple, w * multiple)
        lr_NCHW = np.random.default_rng(h).random(shape, dtype=np.float32)
        with torch.no_grad():
            expected = each_exported.network(torch.from_numpy(lr_NCHW)).numpy()
        assert np.abs(run_graph(path, lr_NCHW) - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("name", FIRST)
def test_what_is_applied_and_kept(exported, tmp_path, name):
    plain, path = exported(name).path, tmp_path / "new.onnx"
    report = rewrite_file(plain, DEFAULT, path)
    assert {step.name: step.times for step in report.applied} == FIRST[name]
    assert report.after.nodes == len(onnx.load(path).graph.node)
    before, after = read_graph(plain), read_graph(path)
    assert (after.scale, after.channels, after.input_multiple, after.dynamic, after.metadata) == (
        before.scale,
        before.channels,
        before.input_multiple,
        before.dynamic,
        before.metadata,
    )


@pytest.mark.parametrize("name", ["compact-x4", "compact-x2-gray", "rrdbnet-x4", "rrdbnet-x2", "srresnet-x4"])
@pytest.mark.parametrize("chosen", ["openvino", "openvino-bf16", "onnxruntime"])
def test_a_backends_own_set_gives_the_same_after_the_default_one(exported, run_graph, tmp_path, name, chosen):
    paths = tmp_path / "of_plain.onnx", tmp_path / "of_default.onnx"
    rewrite_file(exported(name).path, SETS[chosen], paths[0])
    rewrite_file(exported(name).path, DEFAULT, tmp_path / "default.onnx")
    rewrite_file(tmp_path / "default.onnx", SETS[chosen], paths[1])
    kinds = [Counter(node.op_type for node in onnx.load(path).graph.node) for path in paths]
    assert kinds[0] == kinds[1]
    spec = exported(name).spec
    multiple = input_multiple(spec)
    lr_NCHW = np.random.default_rng(4).random((2, spec.channels, 5 * multiple, 8 * multiple), dtype=np.float32)
    of_plain, of_default = (run_graph(path, lr_NCHW) for path in paths)
    assert np.abs(of_plain - of_default).max() <= 1e-6 * max(1, np.abs(of_plain).max())


@pytest.mark.parametrize("options", [FOR_OPENVINO, FOR_OPENVINO_BF16, FOR_ONNXRUNTIME])
def test_rewriting_without_measuring_is_the_same(exported, run_graph, tmp_path, options):
    measured, plain = onnx.load(exported("rrdbnet-x4").path), onnx.load(exported("rrdbnet-x4").path)
    report = rewrite_model(measured, options)
    assert apply_rewrites(plain, options) == tuple(step.name for step in report.applied)
    assert [node.op_type for node in plain.graph.node] == [node.op_type for node in measured.graph.node]
    assert len(plain.graph.initializer) == len(measured.graph.initializer)
    lr_NCHW = np.random.default_rng(4).random((1, 3, 7, 6), dtype=np.float32)
    outputs = []
    for name, model in (("plain", plain), ("measured", measured)):
        onnx.save(model, tmp_path / f"{name}.onnx")
        outputs.append(run_graph(tmp_path / f"{name}.onnx", lr_NCHW))
    np.testing.assert_array_equal(*outputs)


def test_a_network_of_full_size_is_split(exported):
    (concat,) = rewrite_model(make_rrdbnet(23), replace(NOTHING, concat=2)).applied
    assert concat.times == 23 * 3 * 3  # four of the five convolutions of a block read more than one part


def test_receptive_field_stays(exported, tmp_path):
    plain, path = exported("rrdbnet-x4").path, tmp_path / "new.onnx"
    rewrite_file(plain, replace(NOTHING, scales=True, sub_pixel="shuffle", residual_taps=True, concat=0), path)
    assert describe_graph_cost(path).receptive_radius == describe_graph_cost(plain).receptive_radius


def make_rrdbnet(blocks, features=64, growth=32):
    """RRDBNet x4 node by node, with weights of zero."""
    nodes, constants = [], {}

    def conv(source, inputs, outputs):
        name = f"conv{len(nodes)}"
        weight = f"w{outputs}x{inputs}"
        constants[weight] = np.zeros((outputs, inputs, 3, 3), np.float32)
        nodes.append(helper.make_node("Conv", [source, weight], [name], pads=[1] * 4))
        return name

    def add(op_type, *inputs, **attributes):
        nodes.append(helper.make_node(op_type, list(inputs), [f"{op_type}{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    constants["scale"] = np.float32(0.2)
    constants["twice"] = np.array([1, 1, 2, 2], np.float32)
    x = first = conv("x", 3, features)
    for _ in range(blocks):
        start = x
        for _ in range(3):
            seen = [x]
            for number in range(4):
                joined = add("Concat", *seen, axis=1) if number else x
                seen.append(add("LeakyRelu", conv(joined, features + number * growth, growth), alpha=0.2))
            last = conv(add("Concat", *seen, axis=1), features + 4 * growth, features)
            x = add("Add", add("Mul", last, "scale"), x)
        x = add("Add", add("Mul", x, "scale"), start)
    x = add("Add", conv(x, features, features), first)
    for _ in range(2):
        nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        x = add("LeakyRelu", conv(add("Resize", x, "", "twice", **nearest), features, features), alpha=0.2)
    y = conv(add("LeakyRelu", conv(x, features, features), alpha=0.2), features, 3)
    values = [helper.make_tensor_value_info(name, 1, ["n", 3, None, None]) for name in ("x", y)]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:], stored), opset_imports=[helper.make_opsetid("", 17)]
    )


@pytest.mark.parametrize(("blocks", "mflop", "saved"), [(23, 35.9, 0.023), (6, 11.4, 0.072)])
@pytest.mark.parametrize("form", ["shuffle", "transposed"])
def test_sub_pixels_save_what_was_counted(blocks, mflop, saved, form):
    report = rewrite_model(make_rrdbnet(blocks), replace(NOTHING, sub_pixel=form))
    before, after = report.before.multiply_adds, report.after.multiply_adds
    assert before * 2 / 1e6 == pytest.approx(mflop, abs=0.05)
    # By hand: 20 output pixels (4 + 16) per input pixel, 5 of 9 taps less.
    by_hand = 20 * 64 * 64 * 5 / before
    assert by_hand == pytest.approx(saved, abs=0.0005)
    # The shuffle computes one row and one column more, on pictures of 96 and 192.
    assert 1 - after / before == pytest.approx(by_hand, rel=0.03 if form == "shuffle" else 1e-9)


def test_scales_and_bytes_are_counted():
    report = rewrite_model(make_rrdbnet(2), replace(NOTHING, scales=True))
    (step,) = report.steps
    assert (step.name, step.times, step.before.nodes - step.after.nodes) == ("scales", 6, 6)
    # Each factor read and wrote 64 channels of FP32.
    assert step.before.bytes_moved - step.after.bytes_moved == pytest.approx(6 * 2 * 64 * 4)
    assert step.after.multiply_adds == step.before.multiply_adds


@pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize("name", ["compact-x4", "rrdbnet-x4", "rrdbnet-x2"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_rtx_builds_rewritten_graphs(exported, tmp_path, name, precision):
    path = tmp_path / "new.onnx"
    everything = replace(DEFAULT, concat=2, residual_taps=True, channels=16, prelu="decompose")
    rewrite_file(exported(name).path, everything if precision == "fp32" else DEFAULT, path)
    if precision == "fp16":
        convert_graph_to_fp16(path, half := tmp_path / "half.onnx")
        path = half
    convolutions = sum(node.op_type == "Conv" for node in onnx.load(path).graph.node)
    request = EngineRequest(
        graph=path,
        graph_sha256=sha256_of(path),
        precision=precision,
        backend="tensorrt-rtx",
        profiles=(parse_profile("tile=1x16x16,1x64x64,2x128x128"),),
        compute_capabilities=("sm86",),
    )
    kind = "FLOAT" if precision == "fp32" else "HALF"
    assert build_engine(request).record.convolution_precisions == {kind: convolutions}


@pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")
def test_rtx_builds_transposed_convolutions(exported, tmp_path):
    path = tmp_path / "new.onnx"
    rewrite_file(exported("rrdbnet-x4").path, FOR_OPENVINO, path)
    request = EngineRequest(
        graph=path,
        graph_sha256=sha256_of(path),
        precision="fp32",
        backend="tensorrt-rtx",
        profiles=(parse_profile("tile=1x16x16,1x64x64,2x128x128"),),
        compute_capabilities=("sm86",),
    )
    assert len(build_engine(request).engine) > 0
