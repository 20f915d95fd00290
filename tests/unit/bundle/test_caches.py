from __future__ import annotations

import pytest

from sr_deploy.bundle import EngineRecord, FileRecord, parse_profile
from sr_deploy.bundle.engine_folder import runtime_cache_name
from sr_deploy.errors import OutputError


@pytest.fixture
def bundle(make_bundle, tmp_path):
    return make_bundle("compact-x1", tmp_path)


def test_a_cache_is_written_whole_and_read_back(bundle):
    assert bundle.read_cache("a.timing") == b""
    bundle.write_cache("a.timing", b"first")
    bundle.write_cache("a.timing", b"second")
    assert bundle.read_cache("a.timing") == b"second"
    assert [path.name for path in (bundle.path / "caches").iterdir()] == ["a.timing"]
    (bundle.path / "caches" / "b.timing").mkdir()
    with pytest.raises(OutputError, match="a folder stands where a file is needed"):
        bundle.write_cache("b.timing", b"")


def test_an_engine_takes_its_kernels_with_it(bundle):
    record = EngineRecord(
        key="0123456789abcdef",
        graph_sha256=bundle.manifest.graphs[0].sha256,
        precision="fp32",
        backend="tensorrt-rtx",
        backend_version="1.7.1",
        target="sm89",
        profiles=(parse_profile("tile=1x8x8,1x16x16,1x32x32"),),
        flags={},
        engine=FileRecord(file="engines/0123456789abcdef.engine", sha256="0" * 64),
        layer_precisions={},
        inspected="",
        build_seconds=1.0,
        built_at="2026-01-01",
    )
    path = bundle.add_engine(record, b"engine")
    bundle.write_cache(runtime_cache_name(record), b"kernels")
    bundle.write_cache("other.runtime", b"kernels")
    bundle.remove_engine(record)
    assert [path.name for path in (bundle.path / "caches").iterdir()] == ["other.runtime"]
    assert not path.exists()
