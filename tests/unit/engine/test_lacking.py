"""Targets that lack what a graph needs are left out of engines for all, by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.backends import builders
from sr_deploy.bundle import parse_profile
from sr_deploy.engine.bundle import build_engines
from sr_deploy.errors import BackendError
from sr_deploy.graph.read import describe_layers

pytestmark = pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")
PROFILE = parse_profile("tile=1x16x16,1x32x32,1x32x32")


def write_graph(path: Path, kind: str, dtype: int = TensorProto.FLOAT) -> Path:
    """A convolution, and each row weighed by its likeness to the others, as attention does."""
    weight = np.random.default_rng(0).normal(size=(3, 3, 3, 3)).astype(helper.tensor_dtype_to_np_dtype(dtype))
    nodes = [helper.make_node("Conv", ["lr", "w"], ["c"], pads=[1, 1, 1, 1])]
    if kind == "matmul":
        nodes += [
            helper.make_node("Transpose", ["c"], ["t"], perm=[0, 1, 3, 2]),
            helper.make_node("MatMul", ["c", "t"], ["p"]),
            helper.make_node("MatMul", ["p", "c"], ["sr"]),
        ]
    elif kind == "einsum":
        nodes += [
            helper.make_node("Einsum", ["c", "c"], ["p"], equation="nchw,ncjw->nchj"),
            helper.make_node("Einsum", ["p", "c"], ["sr"], equation="nchj, ncjw -> nchw"),
        ]
    else:
        nodes[0].output[0] = "sr"
    values = [helper.make_tensor_value_info(name, dtype, [1, 3, "h", "w"]) for name in ("lr", "sr")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.mark.parametrize("kind", ["matmul", "einsum"])
def test_turing_is_left_out_where_matrices_are_multiplied_in_fp32(tmp_path: Path, kind: str, said) -> None:
    path = write_graph(tmp_path / "theirs.onnx", kind)
    (record,) = build_engines(path, "tensorrt-rtx", profiles=[PROFILE]).built
    known = builders.compute_capabilities("tensorrt-rtx")
    assert record.target.split("+") == [name for name in known if name != "sm75"]
    assert said[0].endswith("; not for sm75 (Turing): no products of FP32 matrices")
    with pytest.raises(BackendError, match="FP32 GEMM is not supported"):  # asked for by name, it is tried
        build_engines(path, "tensorrt-rtx", profiles=[PROFILE], compute_capabilities=["sm75"])


@pytest.mark.parametrize(("kind", "dtype"), [("conv", TensorProto.FLOAT), ("matmul", TensorProto.FLOAT16)])
def test_all_are_built_for_where_nothing_is_lacking(tmp_path: Path, kind: str, dtype: int, said) -> None:
    path = write_graph(tmp_path / "theirs.onnx", kind, dtype)
    (record,) = build_engines(path, "tensorrt-rtx", profiles=[PROFILE]).built
    assert record.target.split("+") == list(builders.compute_capabilities("tensorrt-rtx"))
    assert "not for" not in said[0]


@pytest.mark.parametrize("kind", ["matmul", "einsum"])
def test_products_of_matrices_are_counted(tmp_path: Path, kind: str) -> None:
    layers = describe_layers(write_graph(tmp_path / "theirs.onnx", kind), (1, 16, 32))
    products = [layer.flops for layer in layers if layer.op in ("MatMul", "Einsum")]
    assert products == [2 * 3 * 16 * 16 * 32] * 2
