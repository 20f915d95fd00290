"""Q/DQ graphs of every network, as `export --int8` makes them, parsed and built by TensorRT-RTX."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from sr_deploy import trt
from sr_deploy.bundle import parse_profile
from sr_deploy.engine.build import build_engine
from sr_deploy.engine.request import EngineRequest
from sr_deploy.export.fp16 import convert_model_to_fp16
from sr_deploy.export.int8.insert import QuantizedConv, insert_quantization, quantize_weight
from sr_deploy.export.int8.placement import place_quantization
from sr_deploy.export.write import write_graph
from sr_deploy.files import sha256_of

pytestmark = pytest.mark.skipif(trt.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")


def quantize(path, target, *, per_channel):
    """Every convolution that may be INT8 in INT8, with arbitrary ranges; the rest in FP16."""
    model = onnx.load(path)
    placement = place_quantization(model)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    layers = {}
    for node in model.graph.node:
        if node.name in {candidate.name for candidate in placement.candidates}:
            weight, scale = quantize_weight(tensors[node.input[1]], per_channel=per_channel)
            bias = tensors[node.input[2]].astype(np.float32) if len(node.input) > 2 else None
            layers[node.name] = QuantizedConv(1 / 127, weight, scale, bias)
    insert_quantization(model, layers)
    convert_model_to_fp16(model, "test")
    write_graph(model, target)
    return placement


def build_int8(graph, path, *, per_channel):
    placement = quantize(graph, path, per_channel=per_channel)
    request = EngineRequest(
        graph=path,
        graph_sha256=sha256_of(path),
        precision="int8",
        backend="tensorrt-rtx",
        profiles=(parse_profile("tile=1x16x16,1x32x32,1x64x64"),),
        compute_capabilities=("sm89",),
    )
    record = build_engine(request).record
    names = {candidate.name for candidate in placement.candidates}
    assert names
    assert {name for name, precision in record.declared.items() if precision == "int8"} == names
    assert set(record.declared.values()) <= {"int8", "fp16"}
    assert record.multiply_add_shares["int8"] == pytest.approx(placement.share)


def test_rtx_builds_every_quantized_network(each_exported, tmp_path):
    build_int8(each_exported.path, tmp_path / "model.int8.onnx", per_channel=True)


@pytest.mark.parametrize("name", ["compact-x4", "rrdbnet-x2"])
def test_rtx_builds_weights_with_one_scale(exported, tmp_path, name):
    build_int8(exported(name).path, tmp_path / "model.int8.onnx", per_channel=False)
