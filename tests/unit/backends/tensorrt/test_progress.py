from __future__ import annotations

import pytest

from sr_deploy.backends import builders
from sr_deploy.backends.tensorrt.progress import PROGRESS_MARK, BuildProgress, read_progress
from sr_deploy.bundle import parse_profile
from sr_deploy.engine.build import build_engine
from sr_deploy.engine.request import EngineRequest
from sr_deploy.files import sha256_of


def test_lines_are_read_back():
    line = f'{PROGRESS_MARK}["Building engine: Timing graph nodes", 2, 7]\n'
    progress = read_progress(line, 12.4)
    assert progress == BuildProgress("Building engine: Timing graph nodes", 2, 7, 12.4)
    assert str(progress) == "Building engine: Timing graph nodes 2/7, 12 s so far"
    assert str(BuildProgress("parsing the graph", 0, 0, 3.0)) == "parsing the graph, 3 s so far"
    assert read_progress("[E] something else", 0.0) is None


@pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")
def test_the_builders_own_stages_are_told(exported):
    graph = exported("compact-x4").path
    request = EngineRequest(
        graph=graph,
        graph_sha256=sha256_of(graph),
        precision="fp32",
        backend="tensorrt-rtx",
        profiles=(parse_profile("tile=1x16x16,1x32x32,1x64x64"),),
        compute_capabilities=("sm89",),
    )
    told: list[BuildProgress] = []
    build_engine(request, on_progress=told.append)
    stages = list(dict.fromkeys(progress.stage for progress in told if progress.stage != "starting the builder"))
    assert stages[:2] == ["loading the SDK", "parsing the graph"]
    assert stages[-1] == "inspecting the engine"
    assert "Building engine" in stages  # TensorRT-RTX's own words, from its progress monitor
    assert any(stage.startswith("Building engine: ") for stage in stages)
    assert all(stage.count(": ") <= 1 for stage in stages)
    seconds = [progress.seconds for progress in told]
    assert seconds == sorted(seconds)
    assert seconds[-1] > 0
    assert any(progress.total > 1 for progress in told)
