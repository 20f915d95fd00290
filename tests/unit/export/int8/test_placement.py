from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.errors import GraphError
from sr_deploy.export.int8.placement import place_quantization
from sr_deploy.graph.rewrite import DEFAULT, rewrite_model


def kept_by(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Weights of the convolutions that stay float, by reason."""
    placement = place_quantization(model)
    weights = {node.name: node.input[1] for node in model.graph.node if len(node.input) > 1}
    reasons: dict[str, list[str]] = {}
    for name, reason in placement.kept.items():
        reasons.setdefault(reason, []).append(weights[name])
    return {reason: sorted(names) for reason, names in reasons.items()}


@pytest.mark.parametrize(
    ("name", "first", "candidates"),
    [
        ("compact-x4", ["body.0.weight"], 3),
        ("compact-x2-gray", ["body.0.weight"], 2),
        ("compact-x1", ["body.0.weight"], 2),
        ("rrdbnet-x4", ["conv_first.weight"], 20),  # 3 dense blocks of 5, the trunk's last, and 4 of the tail
        ("rrdbnet-x2", ["conv_first.weight"], 20),  # the first reads the picture itself, the unshuffle folded into it
        ("msrresnet-x2", ["conv_first.weight"], 5),
    ],
)
def test_what_reads_the_picture_stays_float(exported, name, first, candidates):
    model = onnx.load(exported(name).path)
    assert kept_by(model) == {"first convolution": first}
    placement = place_quantization(model)
    assert len(placement.candidates) == candidates
    assert 0 < placement.share < 1


def test_every_network_has_candidates_before_and_after_rewriting(each_exported):
    model = onnx.load(each_exported.path)
    before = place_quantization(model)
    rewrite_model(model, DEFAULT)
    after = place_quantization(model)
    assert len(before.candidates) == len(after.candidates) > 0
    assert set(after.kept.values()) == {"first convolution"}


def test_shares_are_those_of_the_multiply_adds(exported):
    placement = place_quantization(onnx.load(exported("compact-x4").path))
    body, last = 8 * 8 * 9, 8 * 48 * 9
    whole = 3 * 8 * 9 + 2 * body + last
    assert [one.share for one in placement.candidates] == pytest.approx([body / whole] * 2 + [last / whole])


def graph_of(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, None, None])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_every_rule_at_once():
    kernel = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    w33, w38 = np.ones((8, 3, 3, 3), np.float32), np.ones((3, 8, 3, 3), np.float32)
    w88, depthwise = np.ones((8, 8, 3, 3), np.float32), np.ones((8, 1, 3, 3), np.float32)
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["bright"]),
        helper.make_node("Conv", ["bright", "w33"], ["a"], name="first", **kernel),
        helper.make_node("Conv", ["a", "w88"], ["b"], name="inside", **kernel),
        helper.make_node("Conv", ["b", "deep"], ["c"], name="depthwise", group=8, **kernel),
        helper.make_node("Mul", ["w88", "two"], ["made"]),
        helper.make_node("Conv", ["c", "made"], ["d"], **kernel),  # no name, and a weight that is computed
        helper.make_node("Add", ["d", "a"], ["e"]),
        helper.make_node("Conv", ["e", "w88"], ["f"], name="trunk", **kernel),
        helper.make_node("Resize", ["f", "", "scales"], ["g"], mode="nearest"),
        helper.make_node("Conv", ["g", "w88"], ["h"], name="up", **kernel),
        helper.make_node("Conv", ["h", "w38"], ["y"], name="last", **kernel),
    ]
    constants = {"w33": w33, "w88": w88, "w38": w38, "deep": depthwise, "two": np.full((), 2, np.float32)}
    constants["scales"] = np.array([1, 1, 2, 2], np.float32)
    placement = place_quantization(graph_of(nodes, constants))
    assert [candidate.name for candidate in placement.candidates] == ["inside", "trunk", "up", "last"]
    named = dict(placement.kept)
    assert named.pop("first") == "first convolution"
    assert named.pop("depthwise") == "grouped"
    assert list(named.values()) == ["weight is no constant"]


def test_a_graph_without_convolutions_has_nothing_to_quantize():
    model = graph_of([helper.make_node("Relu", ["x"], ["y"])], {})
    with pytest.raises(GraphError, match="no multiply-adds"):
        place_quantization(model)
