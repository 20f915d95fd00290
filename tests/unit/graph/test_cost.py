import numpy as np
import pytest
from onnx import helper

from sr_deploy.arch.registry import describe_cost
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.graph.read import describe_graph_cost


@pytest.mark.parametrize("name", ["compact-x4", "rrdbnet-x2", "rrdbnet-x1-gray", "srresnet-x4", "msrresnet-x4"])
def test_cost_of_our_graphs_is_that_of_their_architectures(exported, name):
    made = exported(name)
    by_graph, by_spec = describe_graph_cost(made.path), describe_cost(made.spec)
    assert by_graph.flops_per_input_pixel == by_spec.flops_per_input_pixel
    assert by_graph.receptive_radius == by_spec.receptive_radius
    assert by_graph.precision_share == {"fp32": 1.0}


@pytest.mark.parametrize(("name", "norms"), [("compact-x4", 0), ("rrdbnet-x2", 0), ("srresnet-x4", 5)])
def test_parameters_of_our_graphs(exported, name, norms):
    """Folding gives each convolution before a batch normalisation a bias, and takes that one's gain and bias away."""
    made = exported(name)
    expected = describe_cost(made.spec).parameters - norms * made.spec.features
    # The slopes of all PReLUs start equal, and the exporter stores equal constants once.
    slopes = [layer.weight.numel() for layer in made.network.modules() if type(layer).__name__ == "PReLU"]
    shared = sum(slopes[1:])
    assert describe_graph_cost(made.path).parameters == expected - shared


@pytest.mark.parametrize(
    ("spec", "flops", "radius"),
    [
        (ArchSpec(architecture="rrdbnet", scale=4, features=64, blocks=23, growth=32), 35.9e6, 349),
        (ArchSpec(architecture="rrdbnet", scale=4, features=64, blocks=6, growth=32), 11.4e6, 94),
        (ArchSpec(architecture="compact", scale=4, features=64, blocks=16), 1.24e6, 18),
        (ArchSpec(architecture="compact", scale=4, features=64, blocks=32), 2.42e6, 34),
    ],
    ids=["rrdbnet-23", "rrdbnet-6", "compact-16", "compact-32"],
)
def test_published_networks(tmp_path, tools, spec, flops, radius):
    path = tools.export_old_way(tools.positive_network(spec), 3, tmp_path / "x.onnx")
    cost = describe_graph_cost(path)
    assert cost.flops_per_input_pixel == pytest.approx(flops, rel=0.004)
    assert cost.receptive_radius == radius


def conv(source, weight, output, **attributes):
    return helper.make_node("Conv", [source, weight], [output], **({"pads": [1, 1, 1, 1]} | attributes))


def test_groups_strides_and_transposed_by_hand(make_graph, tools):
    nodes = [
        conv("x", "narrow", "a", strides=[2, 2]),
        conv("a", "grouped", "b", group=4),
        helper.make_node("ConvTranspose", ["b", "up"], ["y"], strides=[4, 4], kernel_shape=[4, 4]),
    ]
    constants = {
        "narrow": tools.kernel(8, 3, 3),
        "grouped": tools.kernel(8, 2, 3),
        "up": tools.kernel(8, 3, 4),
    }
    cost = describe_graph_cost(make_graph(nodes, constants))
    quarter = 0.25  # pixels of the half-sided maps per input pixel
    multiply_adds = quarter * (8 * 3 * 9 + 8 * 2 * 9 + 8 * 3 * 16)
    assert cost.flops_per_input_pixel == 2 * multiply_adds
    assert cost.parameters == 8 * 3 * 9 + 8 * 2 * 9 + 8 * 3 * 16
    assert cost.nodes == 3


def test_matrix_product_over_channels(make_graph):
    nodes = [
        helper.make_node("Transpose", ["x"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["last", "m"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["y"], perm=[0, 3, 1, 2]),
    ]
    cost = describe_graph_cost(make_graph(nodes, {"m": np.ones((3, 3), np.float32)}))
    assert cost.flops_per_input_pixel == 2 * 9
    assert cost.parameters == 9


def quantise(source, name):
    return [
        helper.make_node("QuantizeLinear", [source, f"{name}_s", "zero"], [f"{name}_q"]),
        helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_s", "zero"], [f"{name}_d"]),
    ]


def test_precision_by_layer(make_graph, tools):
    """One convolution in each precision, and one with a quantised weight only, which computes in floating point."""
    fp32, fp16 = 1, 10
    nodes = [
        *quantise("x", "data"),
        helper.make_node("DequantizeLinear", ["stored", "weight_s", "zero"], ["weight"]),
        conv("data_d", "weight", "a"),
        conv("a", "weight", "b"),
        helper.make_node("Cast", ["b"], ["b16"], to=fp16),
        conv("b16", "half", "c"),
        helper.make_node("Cast", ["c"], ["c32"], to=fp32),
        conv("c32", "single", "y", pads=[2, 2, 2, 2]),
    ]
    constants = {
        "data_s": np.float32(0.01),
        "weight_s": np.float32(0.01),
        "zero": np.int8(0),
        "stored": (tools.kernel(3, 3, 3) * 100).astype(np.int8),
        "half": tools.kernel(3, 3, 3, np.float16),
        "single": tools.kernel(3, 3, 5),
    }
    cost = describe_graph_cost(make_graph(nodes, constants))
    total = 9 + 9 + 9 + 25
    assert cost.precision_share == pytest.approx({"fp32": (9 + 25) / total, "fp16": 9 / total, "int8": 9 / total})
    assert cost.parameters == 9 * (9 + 9 + 25)


def test_bf16_weights(make_graph, tools):
    from onnx import TensorProto

    nodes = [
        helper.make_node("Cast", ["x"], ["b"], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", ["w"], ["w16"], to=TensorProto.BFLOAT16),
        conv("b", "w16", "c"),
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    path = make_graph(nodes, {"w": tools.kernel(3, 3, 3)}, opset=22)
    assert describe_graph_cost(path).precision_share == {"bf16": 1.0}


def test_graph_without_products(make_graph):
    cost = describe_graph_cost(make_graph([helper.make_node("Relu", ["x"], ["y"])]))
    assert (cost.flops_per_input_pixel, cost.precision_share, cost.parameters) == (0.0, {}, 0)
    assert cost.receptive_radius == 0
