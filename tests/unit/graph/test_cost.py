import numpy as np
import onnx
import pytest
from onnx import helper

from sr_deploy.arch.registry import describe_cost
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.errors import ShapeError
from sr_deploy.graph.cost import sum_layers
from sr_deploy.graph.read import describe_graph_cost, describe_layers, read_graph


@pytest.mark.parametrize("name", ["compact-x4", "rrdbnet-x2", "rrdbnet-x1-gray", "srresnet-x4", "msrresnet-x4"])
def test_cost_of_our_graphs_is_that_of_their_architectures(exported, name):
    made = exported(name)
    by_graph, by_spec = describe_graph_cost(made.path), describe_cost(made.spec)
    assert by_graph.flops_per_input_pixel == by_spec.flops_per_input_pixel
    assert by_graph.receptive_radius == by_spec.receptive_radius
    assert by_graph.precision_share == {"fp32": 1.0}


@pytest.mark.parametrize(("name", "norms"), [("compact-x4", 0), ("rrdbnet-x2", 0), ("srresnet-x4", 5)])
def test_parameters_of_our_graphs(exported, name, norms):
    """Folding gives each convolution before a batch normalization a bias, and takes that one's gain and bias away."""
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


def quantize(source, name):
    return [
        helper.make_node("QuantizeLinear", [source, f"{name}_s", "zero"], [f"{name}_q"]),
        helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_s", "zero"], [f"{name}_d"]),
    ]


def test_precision_by_layer(make_graph, tools):
    """One convolution in each precision, and one with a quantized weight only, which computes in floating point."""
    fp32, fp16 = 1, 10
    nodes = [
        *quantize("x", "data"),
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


@pytest.mark.parametrize(("kind", "opset"), [("float8_e4m3fn", 19), ("float8_e5m2", 21)])
def test_fp8_is_not_called_int8(make_graph, tools, kind, opset):
    """As others write such files: two products in FP8, one whose weight alone is stored so, which computes in FP32."""
    dtype = helper.tensor_dtype_to_np_dtype(getattr(onnx.TensorProto, kind.upper().replace("_", "")))
    constants = {
        "data_s": np.float32(0.01),
        "more_s": np.float32(0.01),
        "zero": np.zeros((), dtype),
        "stored": tools.kernel(3, 3, 3).astype(dtype),
        "weight_s": np.full(3, 0.5, np.float32),
    }
    nodes = [
        *quantize("x", "data"),
        helper.make_node("DequantizeLinear", ["stored", "weight_s"], ["weight"], axis=0),
        conv("data_d", "weight", "a"),
        conv("a", "weight", "b"),
        *quantize("b", "more"),
        conv("more_d", "weight", "y"),
    ]
    path = make_graph(nodes, constants, opset=opset)
    assert describe_graph_cost(path).precision_share == pytest.approx({"fp32": 1 / 3, "fp8": 2 / 3})
    assert read_graph(path).precision == "fp8"
    layers = {layer.name: layer for layer in describe_layers(path, (1, 8, 8))}
    assert [layers[name].precision for name in ("a", "b", "y", "data_q")] == ["fp8", "fp32", "fp8", "fp8"]
    assert layers["data_q"].bytes_written == 3 * 8 * 8  # a byte a sample


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
    assert cost.bytes_per_input_pixel == 2 * 3 * 4  # three channels in, three out


def test_layers_by_hand(make_graph, tools):
    """Two images of 6 x 10 through strides, a cast, a shuffle, and a view that moves nothing."""
    half = np.float16
    nodes = [
        conv("x", "w", "a", strides=[2, 2]),
        helper.make_node("PRelu", ["a", "slope"], ["b"]),
        helper.make_node("Identity", ["b"], ["c"]),
        helper.make_node("Mul", ["c", "c"], ["d"]),
        helper.make_node("Cast", ["d"], ["e"], to=10),
        helper.make_node("Conv", ["e", "v", "bias"], ["f"], name="mix"),
        helper.make_node("DepthToSpace", ["f"], ["g"], blocksize=2),
        helper.make_node("Cast", ["g"], ["y"], to=1),
    ]
    constants = {
        "w": tools.kernel(8, 3, 3),
        "slope": np.ones((8, 1, 1), np.float32),
        "v": tools.kernel(12, 8, 1, half),
        "bias": np.zeros(12, half),
    }
    path = make_graph(nodes, constants)
    layers = {layer.name: layer for layer in describe_layers(path, (2, 6, 10))}
    pixels, small = 2 * 6 * 10, 2 * 3 * 5
    assert list(layers) == ["a", "b", "c", "d", "e", "mix", "g", "y"]

    def figures(name):
        layer = layers[name]
        return layer.flops, layer.bytes_read, layer.bytes_written, layer.weight_bytes

    assert figures("a") == (2 * small * 8 * 27, 4 * 3 * pixels, 4 * 8 * small, 4 * 8 * 27)
    assert figures("b") == (0, 4 * 8 * small, 4 * 8 * small, 4 * 8)
    assert figures("c") == (0, 0, 0, 0)
    assert figures("d") == (0, 4 * 8 * small, 4 * 8 * small, 0)  # the same tensor twice is read once
    assert figures("e") == (0, 4 * 8 * small, 2 * 8 * small, 0)
    assert figures("mix") == (2 * small * 12 * 8, 2 * 8 * small, 2 * 12 * small, 2 * (12 * 8 + 12))
    assert figures("g") == (0, 2 * 12 * small, 2 * 12 * small, 0)
    assert figures("y") == (0, 2 * 3 * pixels, 4 * 3 * pixels, 0)
    assert {name: layer.precision for name, layer in layers.items() if layer.precision == "fp16"}.keys() == {
        "e",
        "mix",
        "g",
    }
    assert layers["mix"].output_shape == (2, 12, 3, 5)
    whole = 8 * 27 + 12 * 8
    assert (layers["a"].share, layers["mix"].share) == pytest.approx((8 * 27 / whole, 12 * 8 / whole))
    total = sum_layers(layers.values())
    assert total.flops == describe_graph_cost(path).flops_per_input_pixel * pixels
    assert total.bytes_moved == sum(layer.bytes_moved for layer in layers.values())
    assert total.weight_bytes == 4 * (8 * 27 + 8) + 2 * (12 * 8 + 12)
    assert describe_graph_cost(path).bytes_per_input_pixel == (total.bytes_read + total.bytes_written) / pixels


def test_a_quantized_weight_is_read_as_it_is_stored(make_graph, tools):
    nodes = [
        *quantize("x", "data"),
        helper.make_node("DequantizeLinear", ["stored", "weight_s", "zero"], ["weight"]),
        conv("data_d", "weight", "y"),
    ]
    constants = {
        "data_s": np.float32(0.01),
        "weight_s": np.float32(0.01),
        "zero": np.int8(0),
        "stored": (tools.kernel(3, 3, 3) * 100).astype(np.int8),
    }
    first, second, third = describe_layers(make_graph(nodes, constants), (1, 4, 5))
    assert [layer.op for layer in (first, second, third)] == ["QuantizeLinear", "DequantizeLinear", "Conv"]
    assert (first.bytes_read, first.bytes_written, first.precision) == (4 * 60, 60, "int8")
    assert (third.weight_bytes, third.precision) == (81 + 4 + 1, "int8")


def test_rrdbnet_moves_what_its_dense_blocks_read(exported):
    """Of a dense block with 8 features and growth 4: convolution k reads 8 + 4k channels and writes 4, the last 8."""
    made = exported("rrdbnet-x4")
    layers = describe_layers(made.path, (1, 8, 8))
    convolutions = [layer for layer in layers if layer.op == "Conv"]
    dense = convolutions[1:16]
    read = [8, 12, 16, 20, 24] * 3
    written = [4, 4, 4, 4, 8] * 3
    assert [layer.bytes_read for layer in dense] == [4 * 64 * channels for channels in read]
    assert [layer.bytes_written for layer in dense] == [4 * 64 * channels for channels in written]
    last = convolutions[-1]
    assert (last.bytes_read, last.bytes_written) == (4 * 32 * 32 * 8, 4 * 32 * 32 * 3)


def test_layers_take_a_model_in_memory_and_leave_it(exported):
    import onnx

    path = exported("compact-x1").path
    model = onnx.load(path)
    assert describe_layers(model, (1, 8, 8)) == describe_layers(path, (1, 8, 8))
    assert model == onnx.load(path)


def test_shapes_that_the_graph_does_not_take(exported, make_graph):
    with pytest.raises(ShapeError, match="multiples of 2, not 1x7x8"):
        describe_layers(exported("rrdbnet-x2").path, (1, 7, 8))
    fixed = make_graph([helper.make_node("Relu", ["x"], ["y"])], input_shape=(1, 3, 8, "w"))
    with pytest.raises(ShapeError, match="takes inputs of 1x8xW with sides"):
        describe_layers(fixed, (1, 4, 4))
