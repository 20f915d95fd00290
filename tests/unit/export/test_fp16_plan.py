"""Which layers stay FP32, on networks that are made to need it by scaling one layer up and the next one down."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.errors import GraphError
from sr_deploy.export.fp16 import convert_model_to_fp16
from sr_deploy.export.fp16_plan import MAX_LAYER_LOSS, make_extremes, plan_fp16, plan_graph
from sr_deploy.export.onnx_export import export_network_to_onnx
from sr_deploy.export.write import rewrite_graph_file
from sr_deploy.graph.rounded import insert_rounding

COMPACT = ArchSpec(architecture="compact", scale=2, features=8, blocks=4)
PICTURE = np.random.default_rng(4).random((1, 3, 16, 20), dtype=np.float32)


def run(model: onnx.ModelProto, lr_NCHW: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: lr_NCHW})[0]


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(-10 * np.log10(max(np.mean((one.astype(np.float64) - other) ** 2), 1e-20)))


def export_scaled(folder, factors: dict[int, float]) -> onnx.ModelProto:
    """The compact network with its convolutions scaled; PReLU between them leaves positive factors alone."""
    torch.manual_seed(3)
    network = build_network(COMPACT).eval().requires_grad_(False)
    state = network.state_dict()
    grown = 1.0
    for index in range(0, 11, 2):
        state[f"body.{index}.bias"].uniform_(-0.1, 0.1)
        factor = factors.get(index, 1.0)
        grown *= factor
        state[f"body.{index}.weight"].mul_(factor)
        state[f"body.{index}.bias"].mul_(grown)  # a bias joins what was scaled before it too
    assert grown == pytest.approx(1)
    path = folder / "scaled.onnx"
    export_network_to_onnx(network, COMPACT, path, "5" * 64)
    return onnx.load(path)


def convert(model: onnx.ModelProto, keep: tuple[str, ...] = ()) -> onnx.ModelProto:
    converted = onnx.ModelProto.FromString(model.SerializeToString())
    convert_model_to_fp16(converted, "net", keep)
    return converted


def run_true_fp16(model: onnx.ModelProto, lr_NCHW: np.ndarray) -> np.ndarray:
    rounded = onnx.ModelProto.FromString(model.SerializeToString())
    insert_rounding(rounded)
    return run(rounded, lr_NCHW)


def test_feature_maps_beyond_fp16_stay_fp32_and_no_others(tmp_path):
    model = export_scaled(tmp_path, {2: 800, 4: 800, 6: 1 / 800, 8: 1 / 800})
    exact = run(model, PICTURE)
    assert not np.isfinite(run_true_fp16(convert(model), PICTURE)).all()  # plain FP16 overflows
    plan = plan_fp16(model, lambda: [PICTURE])
    # The second of the large layers goes beyond, its PReLU with it; who reads that stays as well.
    assert [(one.name, one.op) for one in plan.kept] == [("conv_2", "Conv"), ("prelu_2", "PRelu"), ("conv_3", "Conv")]
    assert plan.greatest > 65504
    assert plan.greatest_at == "conv_2"
    assert plan.kept[0].reason.startswith(f"its result reaches {plan.greatest:.3g}, more than 1/4 of FP16's 65504")
    assert plan.kept[2].reason.startswith("its input reaches")
    planned = convert(model, plan.names)
    assert psnr(run_true_fp16(planned, PICTURE), exact) > 60
    assert psnr(run(planned, PICTURE), exact) > 60
    casts = [node.name for node in planned.graph.node if node.op_type == "Cast"]
    assert casts == ["cast_to_fp16.lr", "cast_to_fp32.prelu_1", "cast_to_fp16.conv_3", "cast_to_fp32.sr_fp16"]


def test_feature_maps_too_small_for_fp16_stay_fp32(tmp_path):
    model = export_scaled(tmp_path, {2: 1e-3, 4: 1e-4, 6: 1e3, 8: 1e4})
    exact = run(model, PICTURE)
    plan = plan_fp16(model, lambda: [PICTURE])
    reasons = {one.name: one.reason for one in plan.kept}
    assert "its result is too small for FP16 (greatest value" in reasons["conv_2"]
    assert "its result is too small for FP16" in reasons["prelu_2"]
    assert "conv_3" in reasons  # which reads it
    assert "conv_0" not in reasons
    planned = psnr(run_true_fp16(convert(model, plan.names), PICTURE), exact)
    assert planned > 60


def test_weights_beyond_fp16_stay_fp32(tmp_path):
    model = export_scaled(tmp_path, {4: 3e6, 6: 1 / 3e6})
    with pytest.raises(GraphError, match=r"tensor 'body\.4\.bias' reaches 294187, beyond FP16's 65504"):
        convert(model)
    plan = plan_fp16(model, lambda: [PICTURE])
    assert plan.names == ("conv_2", "prelu_2", "conv_3")
    assert "its constant body.4.weight reaches" in plan.kept[0].reason
    assert "its constant body.6.weight is too small for FP16" in plan.kept[2].reason
    assert psnr(run_true_fp16(convert(model, plan.names), PICTURE), run(model, PICTURE)) > 60


def test_large_weights_that_fit_stay_fp16(tmp_path):
    """Weights of 69 and biases of 27 and more, as published realesr-general-x4v3 has them, are no reason alone."""
    model = export_scaled(tmp_path, {2: 590.0, 4: 1 / 590})
    greatest = {one.name: float(np.abs(numpy_helper.to_array(one)).max()) for one in model.graph.initializer}
    assert greatest["body.2.weight"] > 69
    assert greatest["body.2.bias"] > 27
    plan = plan_fp16(model, lambda: [PICTURE])
    assert plan.kept == ()
    assert 0 < plan.worst_loss < MAX_LAYER_LOSS
    assert psnr(run_true_fp16(convert(model), PICTURE), run(model, PICTURE)) > 60


def test_a_residual_network_that_overflows_is_planned_too(make_network, tmp_path):
    """RRDBNet's last but one convolution, loud: its activation and the last one, as rewritten for export, stay."""
    spec = ArchSpec(architecture="rrdbnet", scale=4, features=8, blocks=1, growth=4)
    network = make_network(spec)
    for name, factor in (("conv_hr", 1e5), ("conv_last", 1e-5)):
        getattr(network, name).weight.mul_(factor)
    network.conv_hr.bias.mul_(1e5)
    path = tmp_path / "loud.onnx"
    export_network_to_onnx(network, spec, path, "5" * 64)
    rewrite_graph_file(path)
    plan = plan_graph(path, 3, 4)
    model = onnx.load(path)
    last = [node.name for node in model.graph.node if node.op_type == "Conv"][-2:]
    assert {one.name for one in plan.kept if one.op == "Conv"} == set(last)
    assert {one.op for one in plan.kept} >= {"Conv", "LeakyRelu"}
    assert psnr(run_true_fp16(convert(model, plan.names), PICTURE), run(model, PICTURE)) > 60


def test_layers_whose_terms_cancel_stay_fp32_with_what_feeds_them():
    weights = {
        "w0": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)[[0, 0, 1]],
        "w1": np.array([[1000, -999.9, 0], [0, 0, 1], [0, 0, 1]], np.float32).reshape(3, 3, 1, 1),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="twice"),
        helper.make_node("Conv", ["a", "w1"], ["y"], name="cancel"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, "h", "w"]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    picture = PICTURE * np.array([1, 0, 0], np.float32).reshape(1, 3, 1, 1)
    plan = plan_fp16(model, lambda: [picture])
    assert [one.name for one in plan.kept] == ["twice", "cancel"]
    # 999.9 is 1000 in FP16, so that 0.1 x becomes 0.
    assert plan.kept[1].reason == "FP16 would change its result by 1e+02 %"
    assert plan.kept[0].reason.startswith("it feeds cancel")


@pytest.mark.parametrize("name", ["rrdbnet-x4", "srresnet-x2-gray", "msrresnet-x2", "compact-x1"])
def test_sound_networks_become_fp16_throughout(exported, name):
    made = exported(name)
    plan = plan_graph(made.path, made.spec.channels, made.spec.scale)
    assert plan.kept == ()
    assert plan.pictures == 9
    assert plan.source == "bundled photographs"
    assert 2.0**-12 < plan.worst_loss < MAX_LAYER_LOSS
    assert plan == plan_graph(made.path, made.spec.channels, made.spec.scale)


def test_weights_that_are_not_finite_are_an_error(tmp_path):
    model = export_scaled(tmp_path, {})
    for tensor in model.graph.initializer:
        if tensor.name == "body.4.weight":
            broken = numpy_helper.to_array(tensor).copy()
            broken[0, 0, 0, 0] = np.nan
            tensor.CopyFrom(numpy_helper.from_array(broken, tensor.name))
    with pytest.raises(GraphError, match=r"tensor 'body\.4\.weight' holds NaN or infinity"):
        plan_fp16(model, lambda: [PICTURE])


def test_extremes_are_what_they_say():
    black, white, dark, saturated, noise = make_extremes([PICTURE])
    assert (black.max(), white.min()) == (0, 1)
    assert dark.max() == np.float32(8 / 255)
    assert set(np.unique(saturated)) == set(np.unique(noise)) == {0, 1}
    assert saturated.mean() == pytest.approx(0.5, abs=0.01)
    assert {one.dtype for one in (black, white, dark, saturated, noise)} == {np.dtype(np.float32)}
