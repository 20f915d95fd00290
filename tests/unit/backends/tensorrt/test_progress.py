from __future__ import annotations

import re

import pytest

from sr_deploy.backends import builders
from sr_deploy.backends.tensorrt.progress import PROGRESS_MARK, read_progress
from sr_deploy.bundle import parse_profile
from sr_deploy.engine.build import build_engine
from sr_deploy.engine.request import EngineRequest
from sr_deploy.files import sha256_of
from sr_deploy.progress import Progress


def test_lines_are_read_back():
    line = f'{PROGRESS_MARK}["Building engine: Timing graph nodes", 2, 7]\n'
    progress = read_progress(line, 12.4)
    assert progress == Progress("Building engine: Timing graph nodes 2/7", 12.4, None, "s")
    assert read_progress(f'{PROGRESS_MARK}["parsing the graph", 0, 0]', 3.0) == Progress(
        "parsing the graph", 3.0, None, "s"
    )
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
    told: list[Progress] = []
    build_engine(request, on_progress=told.append)
    steps = [re.fullmatch(r"(.*?)(?: (\d+)/(\d+))?", progress.stage) for progress in told]
    stages = list(dict.fromkeys(step[1] for step in steps if step[1] != "starting the builder"))
    assert stages[:2] == ["loading the SDK", "parsing the graph"]
    assert stages[-1] == "inspecting the engine"
    assert "Building engine" in stages  # TensorRT-RTX's own words, from its progress monitor
    assert any(stage.startswith("Building engine: ") for stage in stages)
    assert all(stage.count(": ") <= 1 for stage in stages)
    seconds = [progress.done for progress in told]
    assert seconds == sorted(seconds)
    assert seconds[-1] > 0
    assert any(int(step[3] or 0) > 1 for step in steps)
    assert {(progress.total, progress.unit) for progress in told} == {(None, "s")}
