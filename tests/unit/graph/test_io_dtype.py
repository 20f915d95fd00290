import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from sr_deploy.backends.openvino.compiled import compile_graph
from sr_deploy.errors import GraphError
from sr_deploy.export.fp16 import convert_graph_to_fp16
from sr_deploy.export.fp16_plan import plan_graph
from sr_deploy.export.write import write_graph
from sr_deploy.graph.io_dtype import change_io_dtype
from sr_deploy.graph.read import describe_graph_cost, read_graph
from sr_deploy.imaging.convert import to_image, to_nchw

HIGHEST = {"uint8": 255, "uint16": 65535}


def with_io_dtype(source, io_dtype, target):
    model = onnx.load(source)
    change_io_dtype(model, io_dtype)
    write_graph(model, target)
    return target


def run(path, lr):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (sr,) = session.run(["sr"], {"lr": lr})
    return sr


def make_lively(source, target):
    """The graph with its output stretched to more than [0, 1]: random networks give few values."""
    info = read_graph(source)
    shape = (1, info.channels, 8 * info.input_multiple, 8 * info.input_multiple)
    sr = run(source, np.random.default_rng(0).random(shape, np.float32))
    model = onnx.load(source)
    last = next(node for node in model.graph.node if "sr" in node.output)
    last.output[0] = "narrow"
    low, high = float(sr.min()), float(sr.max())
    constants = {"low": low, "gain": 1.6 / (high - low), "offset": -0.3}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()
    )
    steps = [("Sub", "narrow", "low", "a"), ("Mul", "a", "gain", "b"), ("Add", "b", "offset", "sr")]
    model.graph.node.extend(helper.make_node(name, [left, right], [result]) for name, left, right, result in steps)
    onnx.save(model, target)
    return target


def whole_numbers(kind, shape):
    """Every value there is, in the first image at least."""
    lr = np.random.default_rng(5).integers(0, HIGHEST[kind] + 1, shape).astype(kind)
    ramp = np.linspace(0, HIGHEST[kind], lr[0].size).astype(kind)
    lr[0] = ramp.reshape(lr[0].shape)
    return lr


def convert_at_the_host(path, lr_NHWC):
    """What a host does around a graph of FP32 images."""
    highest = np.float32(np.iinfo(lr_NHWC.dtype).max)
    lr_NCHW = np.ascontiguousarray(lr_NHWC.transpose(0, 3, 1, 2), np.float32) / highest
    sr_NCHW = np.rint(np.clip(run(path, lr_NCHW), 0, 1) * highest)
    return sr_NCHW.transpose(0, 2, 3, 1).astype(lr_NHWC.dtype)


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_whole_numbers_are_what_a_host_makes_of_fp32_bit_for_bit(each_exported, tmp_path, kind):
    plain = make_lively(each_exported.path, tmp_path / "plain.onnx")
    path = with_io_dtype(plain, kind, tmp_path / "changed.onnx")
    info = read_graph(path)
    lr = whole_numbers(kind, (2, 8 * info.input_multiple, 12 * info.input_multiple, info.channels))
    sr = run(path, lr)
    assert sr.dtype == kind
    assert sr.shape == (2, lr.shape[1] * info.scale, lr.shape[2] * info.scale, info.channels)
    np.testing.assert_array_equal(sr, convert_at_the_host(plain, lr))
    assert len(np.unique(sr)) > 150
    assert (sr.min(), sr.max()) == (0, HIGHEST[kind])


def test_uint8_is_what_our_own_pictures_become(exported, tmp_path):
    """`imaging.convert` is the host's side of the same arithmetic."""
    plain = exported("compact-x4").path
    path = with_io_dtype(plain, "uint8", tmp_path / "changed.onnx")
    picture = whole_numbers("uint8", (1, 16, 24, 3))[0]
    np.testing.assert_array_equal(run(path, picture[None])[0], to_image(run(plain, to_nchw(picture))))


def identity_graph(make_graph, gain=1.0, offset=0.0):
    nodes = [helper.make_node("Mul", ["x", "gain"], ["a"]), helper.make_node("Add", ["a", "offset"], ["y"])]
    return make_graph(nodes, {"gain": np.float32(gain), "offset": np.float32(offset)})


def test_rounding_is_to_even_and_beyond_the_range_is_clamped(make_graph, tmp_path):
    """Half of each value: 1 -> 0.5 -> 0, 3 -> 1.5 -> 2, 5 -> 2.5 -> 2; then outputs below 0 and above 1."""
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)

    def through(**changes):
        model = onnx.load(identity_graph(make_graph, **changes))
        change_io_dtype(model, "uint8")
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"x": values})[0][0, :, :, 0].ravel()

    np.testing.assert_array_equal(through(), np.arange(256))
    half = through(gain=0.5)
    scaled = np.float32(0.5) * (np.arange(256, dtype=np.float32) / np.float32(255)) * np.float32(255)
    np.testing.assert_array_equal(half, np.rint(scaled))
    assert half[[2, 4, 254]].tolist() == [1, 2, 127]
    shifted = through(gain=4.0, offset=-1.0)
    assert shifted.min() == 0
    assert shifted.max() == 255
    assert (shifted == 0).sum() >= 63
    assert (shifted == 255).sum() >= 126


def test_input_channels_are_rgb_in_order(make_graph, tmp_path):
    nodes = [helper.make_node("Mul", ["x", "gain"], ["y"])]
    gains = np.array([1, 0.5, 0], np.float32).reshape(1, 3, 1, 1)
    model = onnx.load(make_graph(nodes, {"gain": gains}))
    change_io_dtype(model, "uint8")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (sr,) = session.run(None, {"x": np.full((1, 2, 5, 3), 200, np.uint8)})
    assert (sr == np.array([200, 100, 0], np.uint8)).all()


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_openvino_computes_the_same_to_a_step(exported, tmp_path, kind):
    """It divides by multiplying, and sums in another order: a sample between two numbers may go to the other one."""
    plain = make_lively(exported("rrdbnet-x2").path, tmp_path / "plain.onnx")
    path = with_io_dtype(plain, kind, tmp_path / "changed.onnx")
    lr = whole_numbers(kind, (1, 16, 24, 3))
    compiled = compile_graph(path, "f32", None)
    sr = compiled([lr])[0]
    assert sr.dtype == kind
    difference = np.abs(sr.astype(int) - convert_at_the_host(plain, lr).astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.05


def test_fp16_io_of_an_fp32_graph_only_rounds(exported, tmp_path):
    plain = exported("compact-x4").path
    path = with_io_dtype(plain, "fp16", tmp_path / "changed.onnx")
    lr = np.random.default_rng(1).random((2, 3, 8, 12), np.float32).astype(np.float16)
    sr = run(path, lr)
    assert sr.dtype == np.float16
    np.testing.assert_array_equal(sr, run(plain, lr.astype(np.float32)).astype(np.float16))
    info = read_graph(path)
    assert (info.input_dtype, info.output_dtype, info.precision, info.layout) == ("float16", "float16", "fp32", "NCHW")


def test_fp16_io_of_an_fp16_graph_has_no_cast_left_at_its_ends(each_exported, tmp_path):
    half, path = tmp_path / "half.onnx", tmp_path / "changed.onnx"
    plan = plan_graph(each_exported.path, each_exported.spec.channels, each_exported.spec.scale)
    convert_graph_to_fp16(each_exported.path, half, plan.names)
    with_io_dtype(half, "fp16", path)
    graph = onnx.load(path).graph
    ends = {graph.input[0].name, graph.output[0].name}
    assert [
        one.name for one in graph.node if one.op_type == "Cast" and not ends.isdisjoint((*one.input, *one.output))
    ] == []
    if not plan.names and "Range" not in {node.op_type for node in graph.node}:
        assert "Cast" not in {node.op_type for node in graph.node}
    assert len(graph.node) == len(onnx.load(half).graph.node) - 2
    info = read_graph(path)
    shape = (1, info.channels, 8 * info.input_multiple, 8 * info.input_multiple)
    lr = np.random.default_rng(1).random(shape, np.float32).astype(np.float16)
    # ONNX Runtime computes FP16 in FP32 on a CPU and drops the casts of input and output with it: they are added here.
    np.testing.assert_array_equal(run(path, lr), run(half, lr.astype(np.float32)).astype(np.float16))


def test_casts_that_something_else_needs_stay(make_graph):
    """The FP32 form of the output is read again, and the input in FP32 too."""
    nodes = [
        helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16),
        helper.make_node("Relu", ["x16"], ["r16"]),
        helper.make_node("Cast", ["r16"], ["r"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["r", "x"], ["y"]),
    ]
    plain = make_graph(nodes)
    model = onnx.load(plain)
    change_io_dtype(model, "fp16")
    lr = np.random.default_rng(1).random((1, 3, 4, 4), np.float32).astype(np.float16)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": lr})[0], (2 * lr.astype(np.float32)).astype(np.float16))


@pytest.mark.parametrize("io_dtype", ["uint8", "uint16", "fp16"])
def test_reading_tells_the_io_dtype_and_else_the_same(each_exported, tmp_path, io_dtype):
    path = with_io_dtype(each_exported.path, io_dtype, tmp_path / "changed.onnx")
    plain, changed = read_graph(each_exported.path), read_graph(path)
    for name in ("input_name", "scale", "channels", "input_multiple", "dynamic", "input_shape", "precision", "opset"):
        assert getattr(changed, name) == getattr(plain, name), name
    assert changed.metadata["sr_deploy.ends"] == io_dtype
    assert plain.metadata["sr_deploy.ends"] == "fp32"
    value_range = {"uint8": "[0, 255]", "uint16": "[0, 65535]", "fp16": "[0, 1]"}[io_dtype]
    assert changed.metadata["sr_deploy.value_range"] == value_range
    before, after = describe_graph_cost(each_exported.path), describe_graph_cost(path)
    assert after.nodes == before.nodes + (2 if io_dtype == "fp16" else 8)
    assert after.receptive_radius == before.receptive_radius
    assert after.flops_per_input_pixel == before.flops_per_input_pixel
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims][-1] == ("w" if io_dtype == "fp16" else plain.channels)


def test_other_io_dtypes_are_refused(exported, tmp_path, make_graph):
    model = onnx.load(exported("compact-x1").path)
    change_io_dtype(model, "uint8")
    with pytest.raises(GraphError, match=r"'lr' is UINT8 with 4 axes; .* FP32 images"):
        change_io_dtype(model, "fp16")
    mixed = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    with pytest.raises(GraphError, match="'x' is of type uint8 and 'y' of type float32; integers"):
        read_graph(make_graph(mixed, input_shape=("n", "h", "w", 3), dtype=2, output_dtype=1))
    stated = onnx.load(exported("compact-x1").path)
    change_io_dtype(stated, "fp32")
    assert stated.graph == onnx.load(exported("compact-x1").path).graph
    helper.set_model_props(stated, {"sr_deploy.ends": "uint8"})
    onnx.save(stated, tmp_path / "stated.onnx")
    with pytest.raises(GraphError, match="its metadata state ends uint8, but its nodes make fp32"):
        read_graph(tmp_path / "stated.onnx")
