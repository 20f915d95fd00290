import shutil

import pytest

from sr_deploy.bench.pair import time_pair
from sr_deploy.errors import GraphError


def test_both_graphs_are_timed_on_the_same_input(exported, tmp_path):
    graph = exported("rrdbnet-x2").path
    twin = tmp_path / "twin.onnx"
    shutil.copyfile(graph, twin)
    timing = time_pair(graph, twin, seconds_each=0.05)
    assert timing.rewrites == ("scales", "residual_taps", "narrow_output", "sub_pixel", "concat")
    assert timing.backend == "openvino:fp32"
    assert timing.shape == "1x64x64"  # a multiple of the network's 2
    assert timing.before_ms > 0 < timing.after_ms
    assert 0 < timing.ratio_low <= timing.ratio <= timing.ratio_high


def test_what_is_no_graph_is_refused(exported, tmp_path):
    path = tmp_path / "text.onnx"
    path.write_text("no graph")
    with pytest.raises(GraphError, match=r"text\.onnx"):
        time_pair(exported("rrdbnet-x2").path, path)
