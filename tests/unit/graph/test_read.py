import numpy as np
import pytest
from onnx import TensorProto, helper

from sr_deploy.errors import GraphError, InputError
from sr_deploy.graph.read import read_graph
from sr_deploy.graph.shapes import infer_shapes


def conv(name, source, weight, **attributes):
    return helper.make_node("Conv", [source, weight], [name], **attributes)


def upsampling_nodes():
    return [
        helper.make_node("Resize", ["x", "", "scales"], ["large"], mode="nearest"),
        conv("y", "large", "w", pads=[1, 1, 1, 1]),
    ]


def upsampling_constants(tools, dtype=np.float32):
    return {"scales": np.array([1, 1, 2, 2], np.float32), "w": tools.kernel(3, 3, 3, dtype)}


@pytest.mark.parametrize("name", ["compact-x4", "rrdbnet-x2", "rrdbnet-x1-gray", "srresnet-x4", "msrresnet-x4"])
def test_graphs_of_ours(exported, name):
    made = exported(name)
    graph, spec = read_graph(made.path), made.spec
    assert (graph.scale, graph.channels) == (spec.scale, spec.channels)
    unshuffle = {("rrdbnet", 2): 2, ("rrdbnet", 1): 4}.get((spec.architecture, spec.scale), 1)
    assert graph.input_multiple == unshuffle
    assert (graph.input_name, graph.output_name) == ("lr", "sr")
    assert (graph.input_dtype, graph.output_dtype, graph.precision) == ("float32", "float32", "fp32")
    assert graph.dynamic == ("N", "H", "W")
    assert graph.fixed_shape is None
    assert graph.metadata["sr_deploy.arch"] == spec.model_dump_json()


@pytest.mark.parametrize("opset", [9, 10, 11, 13, 17])
@pytest.mark.parametrize(
    ("architecture", "scale", "multiple"),
    [
        ("compact", 3, 1),
        ("msrresnet", 4, 1),
        ("srresnet", 2, 1),
        ("rrdbnet", 4, 1),
        ("rrdbnet", 2, 2),
        ("rrdbnet", 1, 4),
    ],
)
def test_graphs_of_the_old_exporter(tmp_path, tools, opset, architecture, scale, multiple):  # noqa: PLR0917
    spec = tools.spec_of(architecture, scale)
    path = tools.export_old_way(tools.positive_network(spec), 3, tmp_path / "old.onnx", opset=opset)
    graph = read_graph(path)
    assert (graph.scale, graph.channels, graph.input_multiple, graph.opset) == (scale, 3, multiple, opset)
    assert (graph.input_name, graph.output_name) == ("x", "y")
    assert graph.dynamic == ("N", "H", "W")
    assert graph.metadata == {}


def test_unfolded_unshuffle_of_the_new_exporter(tmp_path, make_network, tools):
    """The shape arithmetic that shape inference alone gives up on."""
    import torch

    dynamic = torch.export.Dim.DYNAMIC
    torch.onnx.export(
        make_network(tools.spec_of("rrdbnet", 2)),
        (torch.rand(2, 3, 12, 16),),
        str(tmp_path / "x.onnx"),
        dynamo=True,
        external_data=False,
        verbose=False,
        dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
    )
    graph = read_graph(tmp_path / "x.onnx")
    assert (graph.scale, graph.input_multiple) == (2, 2)


def test_sizes_computed_from_the_input(make_graph):
    """Resize to sizes that Shape, Slice, Cast, Mul and Concat make: scale 3, through floating-point numbers."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Slice", ["shape", "two", "four"], ["sides"]),
        helper.make_node("Cast", ["sides"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["real", "factor"], ["larger"]),
        helper.make_node("Floor", ["larger"], ["floored"]),
        helper.make_node("Cast", ["floored"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Slice", ["shape", "zero", "two"], ["head"]),
        helper.make_node("Concat", ["head", "whole"], ["sizes"], axis=0),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear"),
    ]
    constants = {
        "zero": np.array([0]),
        "two": np.array([2]),
        "four": np.array([4]),
        "factor": np.array([3.0], np.float32),
    }
    assert read_graph(make_graph(nodes, constants, opset=13)).scale == 3


def test_half_precision_io_and_weights(make_graph, tools):
    path = make_graph(upsampling_nodes(), upsampling_constants(tools, np.float16), dtype=TensorProto.FLOAT16)
    graph = read_graph(path)
    assert (graph.input_dtype, graph.output_dtype, graph.precision, graph.scale) == ("float16", "float16", "fp16", 2)


def test_fixed_and_partly_fixed_shapes(make_graph, tools):
    constants = upsampling_constants(tools)
    fixed = read_graph(make_graph(upsampling_nodes(), constants, input_shape=(1, 3, 24, 40)))
    assert (fixed.fixed_shape, fixed.dynamic, fixed.scale, fixed.input_multiple) == ((1, 24, 40), (), 2, 1)
    partly = read_graph(make_graph(upsampling_nodes(), constants, input_shape=("n", 3, 24, 40)))
    assert (partly.fixed_shape, partly.dynamic) == (None, ("N",))
    assert partly.input_shape == (None, 3, 24, 40)


def test_channels_come_from_the_first_convolution_where_the_input_does_not_say(make_graph, tools):
    nodes = [conv("y", "x", "w", pads=[1, 1, 1, 1])]
    graph = read_graph(make_graph(nodes, {"w": tools.kernel(1, 1, 3)}, input_shape=("n", "c", "h", "w")))
    assert (graph.channels, graph.scale) == (1, 1)


@pytest.mark.parametrize(("block", "stride", "multiple"), [(8, 2, 2), (6, 2, 2), (4, 4, 4), (9, 3, 3)])
def test_multiple_of_strided_graphs(make_graph, tools, block, stride, multiple):
    nodes = [
        conv("small", "x", "w", strides=[stride, stride], kernel_shape=[stride, stride]),
        helper.make_node("DepthToSpace", ["small"], ["y"], blocksize=block),
    ]
    graph = read_graph(make_graph(nodes, {"w": tools.kernel(3 * block**2, 3, stride)}))
    assert graph.input_multiple == multiple
    assert graph.scale == block // stride


def test_multiple_of_space_to_depth(make_graph):
    nodes = [
        helper.make_node("SpaceToDepth", ["x"], ["deep"], blocksize=2),
        helper.make_node("DepthToSpace", ["deep"], ["y"], blocksize=2),
    ]
    graph = read_graph(make_graph(nodes))
    assert (graph.scale, graph.input_multiple) == (1, 2)


def test_quantized_graph_is_int8(make_graph, tools):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        conv("y", "d", "w", pads=[1, 1, 1, 1]),
    ]
    constants = {"s": np.float32(0.01), "z": np.int8(0), "w": tools.kernel(3, 3, 3)}
    assert read_graph(make_graph(nodes, constants)).precision == "int8"


def test_weights_beside_the_file_are_not_needed(tmp_path, make_graph, tools):
    import onnx

    constants = upsampling_constants(tools) | {"w": tools.kernel(3, 3, 23)}
    nodes = [upsampling_nodes()[0], conv("y", "large", "w", pads=[11] * 4)]
    model = onnx.load(make_graph(nodes, constants))
    onnx.save(model, tmp_path / "out.onnx", save_as_external_data=True, location="out.data", size_threshold=100)
    (tmp_path / "out.data").unlink()
    assert read_graph(tmp_path / "out.onnx").scale == 2


def refusal(path):
    with pytest.raises(GraphError) as caught:
        read_graph(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"this is text, not a graph\n", b"\x08\x07\x12", b"PK\x03\x04zip", bytes(range(256))]
)
def test_files_that_are_no_graphs(tmp_path, content):
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    assert "is not an ONNX file, or a damaged one" in refusal(path)


def test_truncated_graph(tmp_path, exported):
    whole = exported("compact-x4").path.read_bytes()
    path = tmp_path / "x.onnx"
    for share in (0.2, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert "damaged" in refusal(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match=r"none\.onnx does not exist; give an ONNX file"):
        read_graph(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="is a folder"):
        read_graph(tmp_path)


def test_two_inputs_or_outputs(make_graph):
    second = helper.make_tensor_value_info("noise", TensorProto.FLOAT, ("n", 3, "h", "w"))
    add = [helper.make_node("Add", ["x", "noise"], ["y"])]
    assert "has 2 inputs (x, noise); exactly one image input" in refusal(make_graph(add, extra_inputs=[second]))
    both = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    assert "has 2 outputs (y, z)" in refusal(make_graph(both, outputs=("y", "z")))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input_shape": ("n", 224)}, "has shape n x 224; an image is N x C x H x W"),
        ({"input_shape": ("n", 4, "h", "w")}, "has shape n x 4 x h x w; 1 or 3 channels"),
        ({"input_shape": (1, "h", "w", 3)}, "channels come last here (NHWC)"),
        ({"dtype": TensorProto.UINT8}, "an image of integers is N x H x W x C"),
        ({"dtype": TensorProto.DOUBLE}, "is of type DOUBLE"),
        ({"opset": 6}, "uses opset 6, and ONNX Runtime runs 7 and newer"),
        ({"metadata": {"sr_deploy.scale": "4"}}, "metadata state scale 4, but its nodes make 1"),
        ({"metadata": {"sr_deploy.input_multiple": "2"}}, "metadata state input_multiple 2"),
    ],
)
def test_what_is_no_image_graph(make_graph, changes, words):
    assert words in refusal(make_graph([helper.make_node("Identity", ["x"], ["y"])], **changes))


def test_outputs_that_are_no_enlarged_image(make_graph, tools):
    classifier = [helper.make_node("GlobalAveragePool", ["x"], ["y"])]
    assert "both sides must grow by the same integer" in refusal(make_graph(classifier))
    flat = [helper.make_node("Flatten", ["x"], ["y"])]
    assert "an image of 3 channels is needed" in refusal(make_graph(flat))
    valid = [conv("y", "x", "w")]
    assert "gives an output of 382 x 766" in refusal(make_graph(valid, {"w": tools.kernel(3, 3, 3)}))
    uneven = [helper.make_node("Resize", ["x", "", "s"], ["y"])]
    assert "must grow" in refusal(make_graph(uneven, {"s": np.array([1, 1, 2, 3], np.float32)}))
    gray = [conv("y", "x", "w")]
    assert "an image of 3 channels" in refusal(make_graph(gray, {"w": tools.kernel(1, 3, 1)}))
    custom = [helper.make_node("Magic", ["x"], ["y"], domain="someone")]
    assert "of the domain 'someone', which is not imported" in refusal(make_graph(custom))


def test_shape_arithmetic_by_hand(make_graph):
    """Constants that exporters leave: the value of each is known afterwards."""
    import onnx

    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "three"], ["width"]),
        helper.make_node("Div", ["width", "five"], ["fifth"]),
        helper.make_node("Magic", ["x", "fifth"], ["y"], domain="someone"),
    ]
    model = onnx.load(make_graph(nodes, {"three": np.array(3), "five": np.array(5)}))
    model.opset_import.append(helper.make_opsetid("someone", 1))
    shapes = infer_shapes(model, "x", (1, 3, 20, 42))
    assert shapes.constants["shape"].tolist() == [1, 3, 20, 42]
    assert int(shapes.constants["fifth"]) == 8
    assert shapes.shape("y") is None
    assert len(model.graph.node) == 4


def test_the_smallest_side_of_a_graph_that_mirrors(make_graph):
    """By three pixels, and cropped again: sides of one to three cannot be mirrored so far."""
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["wide"], mode="reflect"),
        helper.make_node("Slice", ["wide", "from", "to", "axes"], ["y"]),
    ]
    constants = {
        "pads": np.array([0, 0, 3, 3, 0, 0, 3, 3]),
        "from": np.array([3, 3]),
        "to": np.array([-3, -3]),
        "axes": np.array([2, 3]),
    }
    graph = read_graph(make_graph(nodes, constants))
    assert (graph.scale, graph.input_multiple, graph.smallest_side) == (1, 1, 4)
    zeros = [helper.make_node("Pad", ["x", "pads"], ["wide"]), nodes[1]]
    assert read_graph(make_graph(zeros, constants)).smallest_side == 1
