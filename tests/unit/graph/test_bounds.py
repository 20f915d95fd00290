"""Graphs of a few hundred bytes that ask for terabytes, or for hours: refused by their shapes, nothing of it made."""

import numpy as np
import pytest
from onnx import helper

from sr_deploy.errors import GraphError
from sr_deploy.graph.load import load_model
from sr_deploy.graph.read import describe_layers, read_graph
from sr_deploy.graph.scale import Scale
from sr_deploy.graph.shapes import infer_shapes

FLOAT = 1
ZERO = {"zero": np.float32(0)}


def ending(large):
    """The image, plus nothing of a large constant."""
    return [
        helper.make_node("ReduceMax", [large], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "x"], ["y"]),
    ]


def whole_numbers(*numbers):
    return np.array(numbers, np.int64)


def doubled(times):
    nodes = [helper.make_node("ConstantOfShape", ["side"], ["t0"])]
    nodes += [helper.make_node("Concat", [f"t{one}"] * 8, [f"t{one + 1}"], axis=0) for one in range(times)]
    return [*nodes, *ending(f"t{times}")]


def multiplied(times):
    nodes = [helper.make_node("ConstantOfShape", ["side"], ["t0"])]
    nodes += [helper.make_node("MatMul", [f"t{one}"] * 2, [f"t{one + 1}"]) for one in range(times)]
    return [*nodes, *ending(f"t{times}")]


# Nodes, constants, and what the message says.
LARGE = {
    "fill": (
        [helper.make_node("ConstantOfShape", ["s"], ["t"]), *ending("t")],
        {"s": whole_numbers(2**40)},
        "'t' of 1099",
    ),
    "expand": (
        [helper.make_node("Expand", ["zero", "s"], ["t"]), *ending("t")],
        {"s": whole_numbers(2**20, 2**20)},
        "4,398,046,511,104 bytes",
    ),
    "tile": (
        [helper.make_node("Tile", ["one", "s"], ["t"]), *ending("t")],
        {"s": whole_numbers(2**31), "one": np.ones(1, np.float32)},
        "8,589,934,592 bytes",
    ),
    "pad": (
        [helper.make_node("Pad", ["one", "s"], ["t"]), *ending("t")],
        {"s": whole_numbers(2**40, 0), "one": np.ones(1, np.float32)},
        "out of all proportion",
    ),
    "resize": (
        [helper.make_node("Resize", ["one", "", "s"], ["t"]), *ending("t")],
        {"s": np.array([1, 1, 2**20, 2**20], np.float32), "one": np.ones((1, 1, 1, 1), np.float32)},
        "out of all proportion",
    ),
    "range": (
        [
            helper.make_node("Range", ["a", "b", "c"], ["r"]),
            helper.make_node("Cast", ["r"], ["t"], to=FLOAT),
            *ending("t"),
        ],
        {"a": np.int64(0), "b": np.int64(2**40), "c": np.int64(1)},
        "'r' of 1099511627776",
    ),
    "concatenations": (doubled(12), {"side": whole_numbers(10)}, "'t7' of 20971520"),
    "products": (multiplied(20), {"side": whole_numbers(2000, 2000)}, "16,000,000,000 multiply-adds"),
    "image": (
        [
            helper.make_node("Unsqueeze", ["x", "four"], ["u"]),
            helper.make_node("Expand", ["u", "s"], ["t"]),
            helper.make_node("ReduceMean", ["t", "four"], ["y"], keepdims=0),
        ],
        {"four": whole_numbers(4), "s": whole_numbers(1, 1, 1, 1, 10**6)},
        "'t' of 1 x 3 x 7 x 11 x 1000000",
    ),
}


@pytest.mark.parametrize("what", LARGE)
def test_what_is_out_of_proportion(make_graph, what):
    nodes, constants, said = LARGE[what]
    path = make_graph(nodes, constants | ZERO, opset=18)
    with pytest.raises(GraphError) as caught:
        read_graph(path)
    assert said in str(caught.value)
    assert "out of all proportion to the picture" in str(caught.value)


def test_large_pictures_may_have_large_feature_maps(make_graph, tools):
    """64 channels at eight times the sides: 16 kB for each pixel of the input."""
    nodes = [
        helper.make_node("Resize", ["x", "", "s"], ["r"], mode="nearest"),
        helper.make_node("Conv", ["r", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Conv", ["c", "v"], ["y"], pads=[1] * 4),
    ]
    constants = {"s": np.array([1, 1, 8, 8], np.float32), "w": tools.kernel(64, 3, 3), "v": tools.kernel(3, 64, 3)}
    assert read_graph(make_graph(nodes, constants)).scale == 8
    fixed = make_graph(nodes, constants, input_shape=(1, 3, 1080, 1920))
    assert read_graph(fixed).fixed_shape == (1, 1080, 1920)


@pytest.mark.parametrize(
    "shape", [("n", 3, 16385, "w"), ("n", 3, 2**62, "w"), (65536, 3, "h", "w"), (9, 3, 2160, 3840)]
)
def test_sides_beyond_any_picture(make_graph, shape):
    path = make_graph([helper.make_node("Relu", ["x"], ["y"])], input_shape=shape)
    shown = " x ".join(map(str, shape))
    with pytest.raises(GraphError, match=rf"has shape {shown}; .* 16384 .*, and 16000000 pixels"):
        read_graph(path)


def test_values_that_become_large_are_not_kept(make_graph):
    nodes, constants, _ = LARGE["concatenations"]
    shapes = infer_shapes(load_model(make_graph(nodes, constants | ZERO)), "x", (1, 3, 8, 8))
    assert shapes.shape("t12") == (10 * 8**12,)
    assert shapes.shape("y") == (1, 3, 8, 8)
    assert {name: value.size for name, value in shapes.constants.items() if name.startswith("t")} == {
        "t0": 10,
        "t1": 80,
        "t2": 640,
    }


@pytest.mark.parametrize(("go", "shape"), [(True, (1, 3, 16, 24)), (False, (1, 3, 8, 12))])
def test_branches_are_followed(make_graph, go, shape):
    def branch(nodes):
        return helper.make_graph(nodes, "branch", [], [helper.make_empty_tensor_value_info(nodes[-1].output[0])])

    larger = branch([helper.make_node("Resize", ["x", "", "s"], ["a"], mode="nearest")])
    same = branch([helper.make_node("Identity", ["x"], ["b"])])
    nodes = [helper.make_node("If", ["go"], ["y"], then_branch=larger, else_branch=same)]
    path = make_graph(nodes, {"go": np.array(go), "s": np.array([1, 1, 2, 2], np.float32)})
    assert infer_shapes(load_model(path), "x", (1, 3, 8, 12)).shape("y") == shape
    assert read_graph(path).scale == (2 if go else 1)


def test_windows_of_a_million_taps_are_not_followed(make_graph):
    """`info` says that the receptive radius is not known, and says it soon."""
    nodes = [
        helper.make_node("MaxPool", ["x"], [f"y{one}" if one else "y"], kernel_shape=[2**21 + 1] * 2, pads=[2**20] * 4)
        for one in range(1)
    ]
    path = make_graph(nodes)
    from sr_deploy.graph.read import describe_graph_cost

    assert describe_graph_cost(path).receptive_radius is None
    assert len(describe_layers(path, (1, 8, 8))) == 1


def dividing(op, by):
    """The image, plus nothing of its height divided by `by`, which may be `less`: the height less seven."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "two"], ["height"]),
        helper.make_node("Sub", ["height", "seven"], ["less"]),
        helper.make_node(op, ["height", by], ["odd"]),
        helper.make_node("Cast", ["odd"], ["t"], to=FLOAT),
        helper.make_node("Mul", ["t", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "x"], ["y"]),
    ]
    constants = ZERO | {"none": np.int64(0), "two": np.int64(2), "seven": np.int64(7)}
    return nodes, constants


@pytest.mark.parametrize("op", ["Div", "Mod"])
def test_whole_numbers_divided_by_zero(make_graph, op):
    """ONNX Runtime ends the process over it."""
    with pytest.raises(GraphError, match="'odd' is an integer divided by zero"):
        read_graph(make_graph(*dividing(op, "none")))
    nodes, constants = dividing(op, "none")
    least = constants | {"height": np.int64(-(2**63)), "none": np.int64(-1)}
    with pytest.raises(GraphError, match="'odd' is an integer divided by zero"):
        read_graph(make_graph([nodes[3], *nodes[4:]], least))


def test_sizes_at_which_zero_is_divided_by_do_not_run(make_graph):
    """A height of 7, which is what the smallest multiple is tried with."""
    assert read_graph(make_graph(*dividing("Div", "less"))).input_multiple == 2


def test_what_the_picture_itself_divides_by_is_tried(make_graph, monkeypatch):
    asked = []
    monkeypatch.setattr("sr_deploy.graph.probe.try_graph", lambda _, reason: asked.append(reason) or Scale(1, 1, 1))
    nodes = [
        helper.make_node("Cast", ["x"], ["whole"], to=7),
        helper.make_node("Div", ["two", "whole"], ["odd"]),
        helper.make_node("Cast", ["odd"], ["y"], to=FLOAT),
    ]
    read_graph(make_graph(nodes, {"two": np.int64(2)}))
    assert asked == ["what 'odd' divides integers by is unknown"]
