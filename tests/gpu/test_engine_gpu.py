"""Engines where a GPU is: built for it, opened, and asked what precision their layers really have.

Not executed while it was written: no machine with one was at hand.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.backends import Precision, builders
from sr_deploy.backends.registry import get_builder
from sr_deploy.backends.tensorrt.open_engine import restore_weights
from sr_deploy.bundle import EngineOptions, parse_profile
from sr_deploy.engine.build import build_engine
from sr_deploy.engine.request import EngineRequest
from sr_deploy.errors import BackendError
from sr_deploy.export.fp16 import convert_graph_to_fp16
from sr_deploy.export.onnx_export import export_network_to_onnx
from sr_deploy.files import sha256_of
from sr_deploy.gpus import visible_gpus

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not visible_gpus(), reason="no NVIDIA GPU is visible (nvidia-smi)"),
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


def capabilities(backend: str) -> tuple[str, ...]:
    mine = visible_gpus()[0].compute_capability
    if backend == "tensorrt-rtx" and mine not in builders.compute_capabilities(backend):
        pytest.skip(f"{backend} does not build for this GPU ({mine})")
    return (mine,) if backend == "tensorrt-rtx" else ()


def request_for(graphs: dict[Precision, Path], backend: str, precision: Precision, **changes: object):
    reason = builders.why_not_buildable(backend)
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
    return request.model_copy(update=changes)


def open_engine(backend: str, engine: bytes):
    """The engine, by its SDK. Only one of the two can be opened in a process: the other is skipped."""
    try:
        sdk = get_builder(backend).select_sdk()
    except BackendError as error:
        pytest.skip(str(error))
    opened = sdk.Runtime(sdk.Logger(sdk.Logger.WARNING)).deserialize_cuda_engine(engine)
    assert opened is not None
    return opened


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize(("precision", "declared"), [("fp32", "FLOAT"), ("fp16", "HALF")])
def test_engine_opens_and_says_its_precision(graphs, backend, precision, declared):
    record = build_engine(request_for(graphs, backend, precision)).record
    assert record.convolution_precisions == {declared: 4}
    assert record.declared == {f"conv_{index}": precision for index in range(4)}
    assert record.multiply_add_shares == pytest.approx({precision: 1.0})
    assert not record.inspected.startswith("not inspected")
    assert any(word in record.inspected for word in (("Half", "FP16") if precision == "fp16" else ("Float", "FP32")))


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_the_engine_has_the_very_shapes_that_were_asked_for(graphs, backend):
    profiles = (*PROFILES, parse_profile("frame=1x72x128,1x72x128,1x72x128"))
    engine = open_engine(backend, build_engine(request_for(graphs, backend, "fp16", profiles=profiles)).engine)
    shapes = [tuple(map(tuple, engine.get_tensor_profile_shape("lr", index))) for index in range(2)]
    assert shapes == [((1, 3, 16, 16), (1, 3, 64, 64), (2, 3, 128, 128)), ((1, 3, 72, 128),) * 3]


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("options", [EngineOptions(strip_weights=True), EngineOptions(refittable=True)])
def test_weights_can_be_left_out_and_put_back(graphs, backend, options):
    plain = build_engine(request_for(graphs, backend, "fp32"))
    built = build_engine(request_for(graphs, backend, "fp32", options=options))
    assert built.record.key != plain.record.key
    engine = open_engine(backend, built.engine)
    assert engine.refittable
    restore_weights(get_builder(backend).select_sdk(), engine, graphs["fp32"])


def test_a_timing_cache_is_learnt_and_taken(graphs):
    request = request_for(graphs, "tensorrt", "fp16")
    first = build_engine(request, timing_cache=b"")
    assert first.timing_cache
    again = build_engine(request, timing_cache=first.timing_cache)
    assert again.timing_cache
    assert again.record.build_seconds < first.record.build_seconds


def test_compatible_engines_of_the_data_center_sdk_build(graphs):
    options = EngineOptions(version_compatible=True, hardware_compatible=True, optimization_level=1, workspace_gib=1)
    record = build_engine(request_for(graphs, "tensorrt", "fp16", options=options)).record
    assert (record.flags["version_compatible"], record.flags["hardware_compatible"]) == ("on", "on")
