from __future__ import annotations

import errno
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.errors import GraphError, OutputError
from sr_deploy.export.cleanup import clean_graph
from sr_deploy.export.onnx_export import export_network_to_onnx
from sr_deploy.export.write import write_graph
from sr_deploy.graph.read import read_graph


def random_lr(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(3).random(shape, dtype=np.float32)


@pytest.mark.parametrize(("n", "h", "w"), [(1, 7, 13), (2, 9, 5), (3, 16, 10)])
def test_graph_agrees_with_torch_on_any_multiple(each_exported, run_graph, n, h, w):
    info = read_graph(each_exported.path)
    lr = random_lr((n, info.channels, h * info.input_multiple, w * info.input_multiple))
    with torch.no_grad():
        expected = each_exported.network(torch.from_numpy(lr)).numpy()
    sr = run_graph(each_exported.path, lr)
    assert sr.shape == (n, info.channels, lr.shape[2] * info.scale, lr.shape[3] * info.scale)
    assert np.std(expected) > 1e-3  # a network that answers with a constant would prove nothing
    assert np.abs(sr - expected).max() <= 1e-5


def test_graph_says_what_it_is(each_exported):
    info = read_graph(each_exported.path)
    spec = each_exported.spec
    assert (info.scale, info.channels) == (spec.scale, spec.channels)
    assert ArchSpec.model_validate_json(info.metadata["sr_deploy.arch"]) == spec
    assert (info.input_name, info.output_name, info.dynamic) == ("lr", "sr", ("N", "H", "W"))
    assert (info.input_dtype, info.precision, info.opset) == ("float32", "fp32", 20)
    assert info.metadata["sr_deploy.colour"] == ("RGB" if spec.channels == 3 else "gray")
    assert info.metadata["sr_deploy.value_range"] == "[0, 1]"
    assert info.metadata["sr_deploy.source_sha256"] == "5" * 64


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("compact-x4", {"Conv": 4, "PRelu": 3, "DepthToSpace": 1, "Resize": 1, "Add": 1}),
        ("compact-x1", {"Conv": 3, "PRelu": 2, "Add": 1}),
        # 15 dense convolutions, first, body, two upsamplings, hr, last; unshuffling is inside the first one
        ("rrdbnet-x4", {"Conv": 21, "LeakyRelu": 15, "Concat": 12, "Mul": 4, "Add": 5, "Resize": 2}),
        ("rrdbnet-x2", {"Conv": 21, "LeakyRelu": 15, "Concat": 12, "Mul": 4, "Add": 5, "Resize": 2}),
        ("rrdbnet-x1-gray", {"Conv": 21, "LeakyRelu": 15, "Concat": 12, "Mul": 4, "Add": 5, "Resize": 2}),
        # batch normalization is gone
        ("srresnet-x4", {"Conv": 9, "PRelu": 5, "Add": 3, "DepthToSpace": 2}),
        ("msrresnet-x4", {"Conv": 9, "LeakyRelu": 4, "Relu": 2, "Add": 3, "DepthToSpace": 2, "Resize": 1}),
    ],
)
def test_graph_holds_nothing_but_the_network(exported, name, expected):
    graph = onnx.load(exported(name).path).graph
    assert Counter(node.op_type for node in graph.node) == expected


def test_graph_is_clean_of_the_machine(each_exported):
    content = each_exported.path.read_bytes()
    repository = Path(__file__).parents[3]
    for trace in (str(repository), str(Path.home()), "site-packages", ".py", "stack_trace", "pkg.torch", "aten"):
        assert trace.encode() not in content, trace
    model = onnx.load(each_exported.path)
    assert all(entry.key.startswith("sr_deploy.") for entry in model.metadata_props)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert not model.functions
    assert model.producer_name == "sr-deploy"


def test_names_are_the_checkpoints_and_the_axes_are_free(exported):
    graph = onnx.load(exported("rrdbnet-x2").path).graph
    assert "body.0.rdb1.conv1.weight" in {tensor.name for tensor in graph.initializer}
    axes = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (graph.input[0], graph.output[0])
    ]
    assert axes == [["n", 3, "h", "w"], ["n", 3, "2*h", "2*w"]]
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    assert names[0] == "conv_0"


@pytest.mark.parametrize("name", ["compact-x4", "srresnet-x2-gray"])
def test_same_weights_give_the_same_bytes(exported, tmp_path, name):
    first = exported(name)
    export_network_to_onnx(first.network, first.spec, tmp_path / "again.onnx", "5" * 64)
    assert (tmp_path / "again.onnx").read_bytes() == first.path.read_bytes()


def test_export_leaves_the_network_as_it_is(exported):
    one = exported("srresnet-x2-gray")
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in one.network.modules())


def test_export_is_silent(make_network, tmp_path, capfd, recwarn):
    spec = ArchSpec(architecture="compact", scale=2, features=4, blocks=0)
    export_network_to_onnx(make_network(spec), spec, tmp_path / "a.onnx", "")
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []


def test_full_disk_leaves_nothing(exported, tmp_path, monkeypatch):
    model = onnx.load(exported("compact-x1").path)

    def no_space(self: Path, data: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", no_space)
    with pytest.raises(OutputError, match=r"cannot write .*model\.onnx: the disk is full"):
        write_graph(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_impossible_graph_is_refused_before_it_is_written(exported, tmp_path):
    model = onnx.load(exported("compact-x1").path)
    model.graph.node[0].op_type = "Convolve"
    with pytest.raises(GraphError, match=r"model\.onnx does not pass ONNX's checker: .*Convolve"):
        write_graph(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_clean_graph_drops_constants_that_nothing_uses(exported):
    model = onnx.load(exported("compact-x1").path)
    model.graph.initializer.add().CopyFrom(onnx.numpy_helper.from_array(np.ones(3, np.float32), "left.over"))
    clean_graph(model, scale=1)
    assert "left.over" not in {tensor.name for tensor in model.graph.initializer}
