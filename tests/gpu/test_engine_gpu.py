"""Engines where a GPU is: built for it, opened, and asked what precision their layers really have."""

from __future__ import annotations

from pathlib import Path

import pytest

from sr_deploy import trt
from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.backends import Backend, Precision
from sr_deploy.bundle import parse_profile
from sr_deploy.engine.build import build_engine
from sr_deploy.engine.request import EngineRequest
from sr_deploy.export.fp16 import convert_graph_to_fp16
from sr_deploy.export.onnx_export import export_network_to_onnx
from sr_deploy.files import sha256_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not trt.visible_gpus(), reason="no NVIDIA GPU is visible (nvidia-smi)"),
]
SPEC = ArchSpec(architecture="compact", scale=4, features=16, blocks=2)
PROFILES = (parse_profile("tile=1x16x16,1x64x64,2x128x128"),)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Path]:
    folder = tmp_path_factory.mktemp("graphs")
    paths: dict[Precision, Path] = {"fp32": folder / "fp32.onnx", "fp16": folder / "fp16.onnx"}
    export_network_to_onnx(build_network(SPEC), SPEC, paths["fp32"], "0" * 64)
    convert_graph_to_fp16(paths["fp32"], paths["fp16"])
    return paths


def capabilities(backend: Backend) -> tuple[str, ...]:
    mine = trt.visible_gpus()[0].compute_capability
    if backend == "tensorrt-rtx" and mine not in trt.compute_capabilities(backend):
        pytest.skip(f"{backend} does not build for this GPU ({mine})")
    return (mine,) if backend == "tensorrt-rtx" else ()


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize(("precision", "declared"), [("fp32", "FLOAT"), ("fp16", "HALF")])
def test_engine_opens_and_says_its_precision(graphs, backend, precision, declared):
    reason = trt.why_not_buildable(backend)
    if reason is not None:
        pytest.skip(reason)
    request = EngineRequest(
        graph=graphs[precision],
        graph_sha256=sha256_of(graphs[precision]),
        precision=precision,
        backend=backend,
        profiles=PROFILES,
        compute_capabilities=capabilities(backend),
    )
    record = build_engine(request).record
    assert record.convolution_precisions == {declared: 4}
    assert not record.inspected.startswith("not inspected")
    assert any(word in record.inspected for word in (("Half", "FP16") if precision == "fp16" else ("Float", "FP32")))
