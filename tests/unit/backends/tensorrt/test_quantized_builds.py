"""Q/DQ graphs of every network, as `export --int8` and `--fp8` make them, parsed and built by TensorRT-RTX."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from sr_deploy.backends import builders
from sr_deploy.bundle import parse_profile
from sr_deploy.engine import bundle as engine_bundle
from sr_deploy.engine.build import build_engine
from sr_deploy.engine.bundle import build_engines
from sr_deploy.engine.request import EngineRequest
from sr_deploy.errors import BackendError
from sr_deploy.export.fp16 import convert_model_to_fp16
from sr_deploy.export.fp16_plan import plan_graph
from sr_deploy.export.int8.formats import FP8, INT8
from sr_deploy.export.int8.insert import QuantizedConv, insert_quantization, quantize_weight
from sr_deploy.export.int8.placement import place_quantization
from sr_deploy.export.write import write_graph
from sr_deploy.files import sha256_of
from sr_deploy.gpus import Gpu

pytestmark = pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")


def quantize(path, target, *, per_channel, numbers):
    """Every convolution that may be quantized, with arbitrary ranges; the rest in FP16 but for what is planned."""
    model = onnx.load(path)
    kept = plan_graph(path, model.graph.input[0].type.tensor_type.shape.dim[1].dim_value, 2).names
    placement = place_quantization(model)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    layers = {}
    for node in model.graph.node:
        if node.name in {candidate.name for candidate in placement.candidates}:
            weight, scale = quantize_weight(tensors[node.input[1]], per_channel=per_channel, numbers=numbers)
            bias = tensors[node.input[2]].astype(np.float32) if len(node.input) > 2 else None
            layers[node.name] = QuantizedConv(1 / numbers.largest, weight, scale, bias)
    insert_quantization(model, layers)
    convert_model_to_fp16(model, "test", kept)
    write_graph(model, target)
    return placement, kept


def request_for(path, precision, *capabilities, planned_fp32=()):
    return EngineRequest(
        graph=path,
        graph_sha256=sha256_of(path),
        precision=precision,
        backend="tensorrt-rtx",
        profiles=(parse_profile("tile=1x16x16,1x32x32,1x64x64"),),
        compute_capabilities=capabilities,
        planned_fp32=planned_fp32,
    )


def build(graph, path, *, per_channel=True, numbers=INT8, capabilities=("sm89",)):
    placement, kept = quantize(graph, path, per_channel=per_channel, numbers=numbers)
    record = build_engine(request_for(path, numbers.name, *capabilities, planned_fp32=kept)).record
    names = {candidate.name for candidate in placement.candidates}
    assert names
    assert {name for name, precision in record.declared.items() if precision == numbers.name} == names
    assert {one for name, one in record.declared.items() if name not in kept} <= {numbers.name, "fp16"}
    assert record.multiply_add_shares[numbers.name] == pytest.approx(placement.share)


@pytest.mark.parametrize("numbers", [INT8, FP8], ids=lambda one: one.name)
def test_rtx_builds_every_quantized_network(each_exported, tmp_path, numbers):
    build(each_exported.path, tmp_path / "model.onnx", numbers=numbers)


@pytest.mark.parametrize("numbers", [INT8, FP8], ids=lambda one: one.name)
@pytest.mark.parametrize("name", ["compact-x4", "rrdbnet-x2"])
def test_rtx_builds_weights_with_one_scale(exported, tmp_path, name, numbers):
    build(exported(name).path, tmp_path / "model.onnx", per_channel=False, numbers=numbers)


def test_rtx_builds_fp8_for_ada_and_blackwell_together(exported, tmp_path):
    build(exported("compact-x4").path, tmp_path / "model.onnx", numbers=FP8, capabilities=("sm89", "sm120", "sm121"))


def test_older_gpus_are_left_out_of_fp8_by_name_or_refused(exported, tmp_path, said):
    path = tmp_path / "model.onnx"
    quantize(exported("compact-x4").path, path, per_channel=True, numbers=FP8)
    with pytest.raises(BackendError, match=r"sm86, because .* HW-specific datatypes: fp8_e4m3"):
        build_engine(request_for(path, "fp8", "sm86"))  # what is left out would fail the build of all
    profiles = [parse_profile("tile=1x16x16,1x32x32,1x32x32")]
    (record,) = build_engines(path, "tensorrt-rtx", profiles=profiles).built
    assert (record.target, record.precision) == ("sm89+sm120+sm121", "fp8")
    older = "sm75 (Turing), sm80 (Ampere), sm86 (Ampere)"
    assert said[0].endswith(f"; not for {older}: no FP8, which begins with sm89 (Ada)")
    with pytest.raises(BackendError) as caught:
        build_engines(path, "tensorrt-rtx", profiles=profiles, compute_capabilities=["sm75", "sm86"])
    assert str(caught.value) == (
        "no tensorrt-rtx engine: fp8: not for sm75 (Turing), sm86 (Ampere): no FP8, which begins with sm89 (Ada)"
    )


def test_the_data_center_sdk_is_not_asked_for_fp8_on_an_older_gpu(exported, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    quantize(exported("compact-x4").path, path, per_channel=True, numbers=FP8)
    monkeypatch.setattr(builders, "why_not_buildable", lambda backend: None)
    monkeypatch.setattr(engine_bundle, "visible_gpus", lambda: (Gpu("NVIDIA GeForce RTX 3090", "sm86"),))
    message = r"^no tensorrt engine: fp8: not for sm86 \(Ampere\): no FP8, which begins with sm89 \(Ada\)$"
    with pytest.raises(BackendError, match=message):
        build_engines(path, "tensorrt", profiles=[parse_profile("tile=1x16x16,1x32x32,1x32x32")])
