"""Other I/O types through the real builder."""

from __future__ import annotations

from pathlib import Path

import pytest

from sr_deploy.backends import builders
from sr_deploy.bundle import parse_profile
from sr_deploy.engine.build import build_engine
from sr_deploy.engine.request import EngineRequest
from sr_deploy.errors import BackendError
from sr_deploy.export.fp16 import convert_graph_to_fp16
from sr_deploy.export.write import change_file_io_dtype
from sr_deploy.files import sha256_of

needs_rtx = pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")


def request_for(graph: Path, precision: str) -> EngineRequest:
    return EngineRequest(
        graph=graph,
        graph_sha256=sha256_of(graph),
        precision=precision,
        backend="tensorrt-rtx",
        profiles=(parse_profile("tile=1x16x16,1x64x48,2x128x96"),),
        compute_capabilities=("sm86",),
    )


@needs_rtx
@pytest.mark.parametrize("name", ["compact-x4", "rrdbnet-x2", "srresnet-x2-gray"])
@pytest.mark.parametrize("io_dtype", ["uint8", "fp16"])
def test_rtx_builds_them_in_both_precisions(exported, tmp_path, name, io_dtype):
    half, full = tmp_path / "fp16.onnx", tmp_path / "fp32.onnx"
    full.write_bytes(exported(name).path.read_bytes())
    convert_graph_to_fp16(full, half)
    for path, precision, kind in ((full, "fp32", "FLOAT"), (half, "fp16", "HALF")):
        change_file_io_dtype(path, io_dtype)
        record = build_engine(request_for(path, precision)).record
        assert set(record.convolution_precisions) == {kind}
        if io_dtype == "uint8":
            assert record.layer_precisions["UINT8"] == 1  # the cast at the end; the one at the beginning gives FLOAT
        elif precision == "fp16":
            assert "FLOAT" not in record.layer_precisions  # no cast at either end


@needs_rtx
def test_uint16_is_refused_by_name(exported, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(exported("compact-x1").path.read_bytes())
    change_file_io_dtype(path, "uint16")
    with pytest.raises(BackendError, match=r"tensorrt-rtx has no 16-bit integers, and model\.onnx"):
        build_engine(request_for(path, "fp32"))
