"""The radius is checked against the truth: an input pixel is changed, and the output pixels that change are found."""

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from sr_deploy.arch.registry import describe_cost
from sr_deploy.graph.read import describe_graph_cost, read_graph
from sr_deploy.graph.receptive_field.field import AxisField, gather, gather_window


def observe_radius(path, multiple=1):
    """Greatest distance, in input pixels, between a changed pixel and an output pixel that it changes."""
    graph = read_graph(path)
    radius = describe_graph_cost(path).receptive_radius
    side = graph.fixed_shape[1] if graph.fixed_shape else -(-(2 * radius + 3 * multiple + 6) // multiple) * multiple
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    observed = 0
    middle = side // 2 // multiple * multiple
    for phase in range(multiple):
        lr = np.zeros((1, graph.channels, side, side), np.float32)
        without = session.run(None, {graph.input_name: lr})[0]
        lr[:, :, middle + phase, middle + phase] = 1
        changed = session.run(None, {graph.input_name: lr})[0] != without
        for axis in (2, 3):
            seen = np.unique(np.nonzero(changed)[axis]) // graph.scale
            observed = max(observed, int(np.abs(seen - (middle + phase)).max()))
    return observed


@pytest.mark.parametrize(
    ("architecture", "scale", "blocks", "radius"),
    [
        ("compact", 4, 16, 18),
        ("compact", 2, 32, 34),
        ("compact", 1, 0, 2),
        ("rrdbnet", 4, 2, 34),
        ("rrdbnet", 2, 1, 38),
        ("rrdbnet", 1, 1, 76),
        ("msrresnet", 3, 2, 7),
        ("srresnet", 4, 1, 10),
    ],
)
def test_radius_is_what_a_changed_pixel_shows(tmp_path, tools, architecture, scale, blocks, radius):  # noqa: PLR0917
    spec = tools.spec_of(architecture, scale, blocks=blocks)
    path = tools.export_old_way(tools.positive_network(spec), 3, tmp_path / "x.onnx")
    measured = describe_graph_cost(path).receptive_radius
    assert measured == observe_radius(path, {("rrdbnet", 2): 2, ("rrdbnet", 1): 4}.get((architecture, scale), 1))
    assert measured == radius
    assert measured == describe_cost(spec).receptive_radius


def ones(out_channels, in_channels, *sides):
    return np.ones((out_channels, in_channels, *sides), np.float32)


def resize(source, output, scales, **attributes):
    return helper.make_node("Resize", [source, "", scales], [output], **attributes)


CASES = {
    "dilated": ([helper.make_node("Conv", ["x", "w"], ["y"], dilations=[3, 3], pads=[3] * 4)], {"w": ones(3, 3, 3, 3)}),
    "same_upper": ([helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER")], {"w": ones(3, 3, 4, 4)}),
    "same_lower": ([helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="SAME_LOWER")], {"w": ones(3, 3, 4, 4)}),
    "uneven_kernel": ([helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 3, 1, 3])], {"w": ones(3, 3, 3, 7)}),
    "transposed": (
        [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], pads=[1] * 4)],
        {"w": ones(3, 3, 4, 4)},
    ),
    "transposed_output_padding": (
        [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], pads=[2] * 4, output_padding=[1, 1])],
        {"w": ones(3, 3, 5, 5)},
    ),
    "linear": (
        [resize("x", "y", "two", mode="linear", coordinate_transformation_mode="half_pixel")],
        {"two": np.array([1, 1, 2, 2], np.float32)},
    ),
    "cubic": (
        [resize("x", "y", "two", mode="cubic", coordinate_transformation_mode="half_pixel")],
        {"two": np.array([1, 1, 2, 2], np.float32)},
    ),
    "nearest_between_convolutions": (
        [
            helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
            resize(
                "a", "b", "three", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
            ),
            helper.make_node("Conv", ["b", "w"], ["c"], pads=[1] * 4),
            helper.make_node("Conv", ["c", "w"], ["y"], pads=[1] * 4),
        ],
        {"w": ones(3, 3, 3, 3), "three": np.array([1, 1, 3, 3], np.float32)},
    ),
    "pooled_and_back": (
        [
            helper.make_node("AveragePool", ["x"], ["a"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Conv", ["a", "w"], ["b"], pads=[1] * 4),
            resize("b", "c", "four", mode="nearest", coordinate_transformation_mode="half_pixel"),
            resize("x", "d", "two", mode="nearest"),
            helper.make_node("Add", ["c", "d"], ["y"]),
        ],
        {
            "w": ones(3, 3, 3, 3),
            "two": np.array([1, 1, 2, 2], np.float32),
            "four": np.array([1, 1, 4, 4], np.float32),
        },
    ),
    "shuffle_by_reshape": (
        [
            helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Slice", ["shape", "i2", "i4"], ["sides"]),
            helper.make_node("Concat", ["c322", "sides"], ["split"], axis=0),
            helper.make_node("Reshape", ["a", "split"], ["b"]),
            helper.make_node("Transpose", ["b"], ["c"], perm=[0, 1, 4, 2, 5, 3]),
            helper.make_node("Mul", ["sides", "i2"], ["doubled"]),
            helper.make_node("Concat", ["c13", "doubled"], ["merged"], axis=0),
            helper.make_node("Reshape", ["c", "merged"], ["d"]),
            helper.make_node("Conv", ["d", "v"], ["y"], pads=[1] * 4),
        ],
        {
            "w": ones(12, 3, 3, 3),
            "v": ones(3, 3, 3, 3),
            "i2": np.array([2]),
            "i4": np.array([4]),
            "c322": np.array([-1, 3, 2, 2]),
            "c13": np.array([-1, 3]),
        },
    ),
    "focus_by_slices": (
        [
            helper.make_node("Slice", ["x", "even", "end", "axes", "step"], ["a"]),
            helper.make_node("Slice", ["x", "odd", "end", "axes", "step"], ["b"]),
            helper.make_node("Concat", ["a", "b"], ["c"], axis=1),
            helper.make_node("Conv", ["c", "w"], ["d"], pads=[1] * 4),
            helper.make_node("DepthToSpace", ["d"], ["y"], blocksize=2),
        ],
        {
            "w": ones(12, 6, 3, 3),
            "even": np.array([0, 0]),
            "odd": np.array([1, 1]),
            "end": np.array([2**62, 2**62]),
            "axes": np.array([2, 3]),
            "step": np.array([2, 2]),
        },
    ),
    "reflected_borders": (
        [
            helper.make_node("Pad", ["x", "pads"], ["a"], mode="reflect"),
            helper.make_node("Conv", ["a", "w"], ["y"]),
        ],
        {"w": ones(3, 3, 5, 5), "pads": np.array([0, 0, 2, 2, 0, 0, 2, 2])},
    ),
    "squeezed_and_back": (
        [
            helper.make_node("Unsqueeze", ["x", "one"], ["a"]),
            helper.make_node("Squeeze", ["a", "one"], ["b"]),
            helper.make_node("Conv", ["b", "w"], ["y"], pads=[1] * 4),
        ],
        {"w": ones(3, 3, 3, 3), "one": np.array([1])},
    ),
}
MULTIPLES = {"pooled_and_back": 2, "focus_by_slices": 2}
RADII = {
    "dilated": 3,
    "same_upper": 2,
    "same_lower": 2,
    "uneven_kernel": 3,
    "transposed": 1,
    "linear": 1,
    "cubic": 2,
    "nearest_between_convolutions": 2,
    "pooled_and_back": 3,
    "reflected_borders": 2,
}


@pytest.mark.parametrize("name", CASES)
def test_operators_against_a_changed_pixel(make_graph, name):
    nodes, constants = CASES[name]
    path = make_graph(nodes, constants, opset=13)
    measured = describe_graph_cost(path).receptive_radius
    assert measured == observe_radius(path, MULTIPLES.get(name, 1))
    assert measured == RADII.get(name, measured)


def test_graph_of_fixed_size_has_the_radius_of_a_free_one(make_graph):
    nodes, constants = CASES["dilated"]
    assert describe_graph_cost(make_graph(nodes, constants, input_shape=(1, 3, 4, 4))).receptive_radius == 3


def test_whole_image_statistics_have_no_radius(make_graph):
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Mul", ["x", "mean"], ["y"]),
    ]
    assert describe_graph_cost(make_graph(nodes)).receptive_radius is None


def test_mixed_sides_have_no_radius(make_graph):
    nodes = [
        helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 1, 3, 2]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Reshape", ["turned", "shape"], ["y"]),
    ]
    assert describe_graph_cost(make_graph(nodes)).receptive_radius is None


def test_a_window_of_a_sorted_field_needs_its_outermost_taps_alone():
    random = np.random.default_rng(0)
    sorted_ones = 0
    for _ in range(400):
        length, kernel, dilation = random.integers(1, 12), int(random.integers(1, 6)), int(random.integers(1, 4))
        low = random.integers(0, 50, length)
        field = AxisField(2, np.sort(low), np.sort(low) + 3) if random.random() < 0.8 else AxisField(2, low, low + 3)
        first = np.arange(random.integers(1, 14)) * random.integers(1, 3) - random.integers(0, 8)
        sorted_ones += field.is_sorted
        found = gather_window(field, first, kernel, dilation)
        expected = gather(field, [first + tap * dilation for tap in range(kernel)])
        np.testing.assert_array_equal((found.low, found.high), (expected.low, expected.high))
    assert 300 < sorted_ones < 400
