"""The network that the field uses, whole: RRDBNet with 23 blocks through every stage that a CPU has."""

from pathlib import Path

import pytest

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.bundle import parse_profile
from sr_deploy.deploy import export_bundle
from sr_deploy.engine.build import build_engine
from sr_deploy.engine.request import EngineRequest
from sr_deploy.export.fp16 import convert_model_to_fp16
from sr_deploy.export.int8.calibration import quantize_layers
from sr_deploy.export.int8.insert import insert_quantization
from sr_deploy.export.int8.placement import Placement, place_quantization
from sr_deploy.export.int8.quantization_options import Int8Options
from sr_deploy.export.spec import load_spec
from sr_deploy.export.write import write_graph
from sr_deploy.files import sha256_of
from sr_deploy.graph.load import load_model
from sr_deploy.graph.read import describe_graph_cost
from sr_deploy.graph.rewrite import FOR_OPENVINO, rewrite_model

pytestmark = pytest.mark.slow

CONVOLUTIONS = 1 + 23 * 15 + 1 + 2 + 2
"""First, dense blocks, after the trunk, two upsamplings, two last."""
PROFILES = (parse_profile("tile=1x16x16,1x64x64,1x128x128"),)


def write_quantized(source: Path, path: Path) -> Placement:
    """All that the default placement allows in INT8, with ranges made up, the rest in FP16."""
    model = load_model(source)
    placement = place_quantization(model)
    limits = {candidate.data: 2.0 for candidate in placement.candidates}
    insert_quantization(model, quantize_layers(model, placement, limits, Int8Options()))
    convert_model_to_fp16(model, source.name)
    write_graph(model, path)
    return placement


def test_rrdbnet_23_is_exported_built_and_verified(tmp_path, write_network):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'sr-deploy[rtx]'")
    arch = ArchSpec(architecture="rrdbnet", scale=4, features=64, blocks=23, growth=32)
    write_network(tmp_path / "rrdb.safetensors", arch)
    spec = load_spec().with_options(fp16=True, profiles=PROFILES)
    result = export_bundle(tmp_path / "rrdb.safetensors", spec, tmp_path / "bundle", backend="tensorrt-rtx")

    assert result.passed, result.certificate
    assert {entry.backend for entry in result.certificate} >= {"onnxruntime:fp32", "onnxruntime:fp16", "torch:fp16"}
    engines = {engine.precision: engine for engine in result.engines}
    assert engines["fp32"].convolution_precisions == {"FLOAT": CONVOLUTIONS}
    assert engines["fp16"].convolution_precisions == {"HALF": CONVOLUTIONS}
    cost = describe_graph_cost(result.bundle.graph("fp32"))
    assert cost.parameters == pytest.approx(16_697_987, rel=0.01)
    assert result.saving is not None
    before, after = result.saving.report.before, result.saving.report.after
    assert 2 * before.multiply_adds == pytest.approx(35.9e6, rel=0.005)
    assert after.multiply_adds == pytest.approx(before.multiply_adds, rel=0.005)
    assert after.bytes_moved < 0.96 * before.bytes_moved
    opened = rewrite_model(load_model(result.bundle.graph("fp32")), FOR_OPENVINO).after
    assert 0.97 * before.multiply_adds < opened.multiply_adds < 0.985 * before.multiply_adds
    assert cost.flops_per_input_pixel == pytest.approx(2 * after.multiply_adds, rel=0.001)

    # INT8: the share of the multiply-adds follows from the wiring alone, whatever the weights are.
    quantized = tmp_path / "model.int8.onnx"
    placement = write_quantized(result.bundle.graph("fp32"), quantized)
    assert len(placement.candidates) == CONVOLUTIONS - 1
    assert placement.share == pytest.approx(0.9999, abs=0.0002)  # docs/int8.md
    request = EngineRequest(
        graph=quantized,
        graph_sha256=sha256_of(quantized),
        precision="int8",
        backend="tensorrt-rtx",
        profiles=PROFILES,
        compute_capabilities=("sm89",),
    )
    record = build_engine(request).record
    assert record.multiply_add_shares["int8"] == pytest.approx(placement.share)
    assert record.unplanned_layers == ()
