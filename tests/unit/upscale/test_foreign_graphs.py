"""ONNX files as others make them: fixed sides, a smallest side, an old opset. What they give is known to the pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.errors import GraphError, OutOfMemoryError
from sr_deploy.evaluation.evaluate import evaluate_model
from sr_deploy.graph.read import describe_graph_cost
from sr_deploy.imaging.codec import write_image
from sr_deploy.model import open_model
from sr_deploy.upscale.guards import FINITE_ONLY
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.memory import estimate_bytes_per_pixel

MIRRORED = [
    helper.make_node("Pad", ["x", "pads"], ["wide"], mode="reflect"),
    helper.make_node("Slice", ["wide", "from", "to", "axes"], ["same"]),
]
CONSTANTS = {
    "pads": np.array([0, 0, 3, 3, 0, 0, 3, 3]),
    "from": np.array([3, 3]),
    "to": np.array([-3, -3]),
    "axes": np.array([2, 3]),
    "s": np.array([1, 1, 2, 2], np.float32),
    "roi": np.empty(0, np.float32),
}


def write_doubling(
    path: Path, sides: tuple[str | int, ...], *, mirrored: bool = False, opset: int = 13, half: bool = False
) -> Path:
    """A graph that gives each pixel four times."""
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    nodes = list(MIRRORED) if mirrored else []
    source = "same" if mirrored else "x"
    if opset < 10:
        nodes.append(helper.make_node("Upsample", [source, "s"], ["y"], mode="nearest"))
    else:
        nodes.append(helper.make_node("Resize", [source, "roi" if opset < 13 else "", "s"], ["y"], mode="nearest"))
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "doubling",
        [helper.make_tensor_value_info("x", kind, sides)],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(value, name) for name, value in CONSTANTS.items() if name in read],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def draw(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def doubled(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image.repeat(2, axis=0).repeat(2, axis=1)


@pytest.mark.parametrize(
    "sides",
    [("n", 3, 32, 24), (1, 3, 32, 24), ("n", 3, "h", 24), ("n", 3, 32, "w"), (1, 3, "h", "w")],
    ids=["both sides", "all", "width", "height", "batch"],
)
@pytest.mark.parametrize("size", [(32, 24), (70, 50), (5, 7)], ids=["that size", "larger", "smaller"])
def test_fixed_sides(tmp_path: Path, sides: tuple[str | int, ...], size: tuple[int, int]) -> None:
    path, image = write_doubling(tmp_path / "fixed.onnx", sides), draw(*size)
    assert estimate_bytes_per_pixel(open_model(path)) == pytest.approx(3 * 4 * (1 + 4) * 3)
    with Upscaler(path, backend="onnxruntime", guards=None) as upscaler:
        np.testing.assert_array_equal(upscaler(image), doubled(image))
        window = upscaler.plan(*size)
    for have, fixed in zip((window.window_height, window.window_width), sides[2:], strict=True):
        assert isinstance(fixed, str) or have == fixed


def test_evaluating_with_fixed_sides(tmp_path: Path) -> None:
    folder = tmp_path / "originals"
    folder.mkdir()
    write_image(folder / "noise.png", doubled(draw(40, 60)))
    write_image(tmp_path / "noise.png", draw(40, 60))
    low = tmp_path / "low"
    low.mkdir()
    write_image(low / "noise.png", draw(40, 60))
    found = evaluate_model(
        write_doubling(tmp_path / "fixed.onnx", ("n", 3, 32, 24)), folder, low, backend="onnxruntime", with_niqe=False
    )
    assert found.evaluation.pictures[0].model.psnr_rgb == 100  # which stands for equal


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("size", [(1, 1), (3, 9), (2, 40), (30, 20)])
def test_pictures_below_the_smallest_side(tmp_path: Path, backend: str, size: tuple[int, int]) -> None:
    path, image = write_doubling(tmp_path / "mirrors.onnx", ("n", 3, "h", "w"), mirrored=True), draw(*size)
    with Upscaler(path, backend=backend, guards=FINITE_ONLY) as upscaler:
        np.testing.assert_array_equal(upscaler(image), doubled(image))


@pytest.mark.parametrize("opset", [9, 11])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_old_opsets(tmp_path: Path, backend: str, opset: int) -> None:
    path, image = write_doubling(tmp_path / "old.onnx", ("n", 3, "h", "w"), opset=opset), draw(20, 30)
    assert open_model(path).graph_info.opset == opset  # type: ignore[union-attr]
    with Upscaler(path, backend=backend, guards=FINITE_ONLY) as upscaler:
        np.testing.assert_array_equal(upscaler(image), doubled(image))


def test_a_file_in_fp16_alone_is_computed_in_fp32(tmp_path: Path) -> None:
    path = write_doubling(tmp_path / "half.onnx", ("n", 3, "h", "w"), half=True)
    model = open_model(path)
    assert model.input_dtype == "float16"
    with Upscaler(model, backend="openvino:fp32", guards=FINITE_ONLY) as upscaler:
        image = draw(20, 30)
        assert np.abs(upscaler(image).astype(int) - doubled(image)).max() <= 1
        assert upscaler.spec.dtype == "float16"


def test_one_size_that_no_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4000 x 4000, to 8000 x 8000: the result alone is 0.7 GiB in FP32."""
    path = write_doubling(tmp_path / "vast.onnx", (1, 3, 4000, 4000))
    monkeypatch.setattr("sr_deploy.runners.shapes.find_available_memory", lambda: 2**30)
    with pytest.raises(OutOfMemoryError, match=r"one size, .* of 0\.7 GiB .*; 1\.0 GiB are free"):
        Upscaler(path, backend="onnxruntime")


def test_fixed_sides_that_no_picture_has(tmp_path: Path) -> None:
    path = write_doubling(tmp_path / "vast.onnx", (1, 3, 65536, 65536))
    with pytest.raises(GraphError, match="fixed sides up to 16384 are taken"):
        Upscaler(path, backend="onnxruntime")


def test_what_only_a_run_tells(tmp_path: Path) -> None:
    """A loop: a run tells its shapes, radius and cost stay unknown, and pictures are upscaled all the same."""
    flag = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go", "on")]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("v", "w")]
    count = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    inside = [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["v"], ["w"])]
    body = helper.make_graph(inside, "body", [count, flag[0], value[0]], [flag[1], value[1]])
    path = write_doubling(tmp_path / "loop.onnx", ("n", 3, "h", "w"))
    model = onnx.load(path)
    model.graph.node.insert(0, helper.make_node("Loop", ["trips", "", "x"], ["same"], body=body))
    model.graph.node[1].input[0] = "same"
    model.graph.initializer.append(numpy_helper.from_array(np.int64(3), "trips"))
    onnx.save(model, path)
    cost = describe_graph_cost(path)
    assert (cost.flops_per_input_pixel, cost.receptive_radius, cost.bytes_per_input_pixel) == (None, None, None)
    with Upscaler(path, backend="onnxruntime", guards=FINITE_ONLY) as upscaler:
        assert upscaler.receptive_radius is None
        np.testing.assert_array_equal(upscaler(draw(20, 30)), doubled(draw(20, 30)))
