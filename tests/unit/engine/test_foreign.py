"""Engines of ONNX files that sr-deploy did not make: any single image in and out."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.backends import builders
from sr_deploy.bundle import parse_profile
from sr_deploy.cli import main
from sr_deploy.engine.bundle import build_engines
from sr_deploy.engine.place import find_place
from sr_deploy.errors import GraphError, ShapeError

needs_rtx = pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")
PROFILE = parse_profile("tile=1x8x8,1x16x16,2x32x32")


def make_foreign(path, *, channels=3, opset=11, shape=("n", "h", "w"), kind=TensorProto.FLOAT, named=True):
    """A convolution and a depth-to-space, with names that are not ours."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    weight = np.random.default_rng(0).standard_normal((4 * channels, channels, 3, 3)).astype(dtype)
    n, h, w = shape
    double = [2 * side if isinstance(side, int) else f"2{side}" for side in (h, w)]
    nodes = [
        helper.make_node("Conv", ["input.1", "w"], ["7"], name="/body/conv" if named else "", pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["7"], ["8"], name="/up" if named else "", blocksize=2),
    ]
    source = helper.make_tensor_value_info("input.1", kind, [n, channels, h, w])
    target = helper.make_tensor_value_info("8", kind, [n, channels, *double])
    graph = helper.make_graph(nodes, "torch_jit", [source], [target], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7), path)
    return path


@needs_rtx
@pytest.mark.parametrize(
    ("changes", "precision"),
    [
        ({}, "fp32"),
        ({"channels": 1, "opset": 20}, "fp32"),
        ({"kind": TensorProto.FLOAT16}, "fp16"),
        ({"named": False}, "fp32"),
    ],
    ids=["opset11", "gray-opset20", "fp16", "unnamed"],
)
def test_an_engine_is_built_beside_the_file(tmp_path, changes, precision):
    path = make_foreign(tmp_path / "theirs.onnx", **changes)
    result = build_engines(path, "tensorrt-rtx", profiles=[PROFILE], compute_capabilities=["sm89"])
    (record,) = result.built
    folder = tmp_path / "theirs.engines"
    assert (folder / record.engine.file).stat().st_size > 0
    assert json.loads((folder / "engines" / f"{record.key}.json").read_text())["precision"] == precision
    assert list(record.declared.values()) == [precision]
    assert record.multiply_add_shares == {precision: 1.0}
    again = build_engines(path, "tensorrt-rtx", profiles=[PROFILE], compute_capabilities=["sm89"])
    assert (again.built, again.kept) == ((), (record,))


@needs_rtx
def test_a_graph_of_one_shape_needs_no_profile_and_takes_no_other(tmp_path, capsys):
    path = make_foreign(tmp_path / "fixed.onnx", shape=(1, 24, 32))
    assert [str(profile) for profile in find_place(path, ()).profiles] == ["fixed=1x24x32,1x24x32,1x24x32"]
    assert main(["build", str(path), "--backend", "tensorrt-rtx", "--compute-capability", "sm89", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["built"][0]["profiles"][0]["opt"] == [1, 24, 32]
    with pytest.raises(ShapeError, match=r"'tile' has 1x8x8, but fixed\.onnx takes 1x24x32 alone"):
        build_engines(path, profiles=[PROFILE])


def test_a_dynamic_graph_needs_a_profile_and_a_picture_is_no_graph(tmp_path):
    path = make_foreign(tmp_path / "theirs.onnx")
    with pytest.raises(ShapeError, match="an engine needs a profile; give --profile NAME=MIN,OPT,MAX"):
        build_engines(path)
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(GraphError, match=r"broken\.onnx"):
        build_engines(tmp_path / "broken.onnx", profiles=[PROFILE])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["broken.onnx", "theirs.onnx"]
