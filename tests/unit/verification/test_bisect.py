import json
import shutil

import numpy as np
import onnx
import pytest

from sr_deploy.bundle import open_bundle
from sr_deploy.cli import main
from sr_deploy.errors import InputError
from sr_deploy.files import sha256_of
from sr_deploy.model import open_model
from sr_deploy.verification.bisect import bisect_model, measure_error


@pytest.fixture(scope="module")
def sound(make_bundle, tmp_path_factory):
    return make_bundle("rrdbnet-x2", tmp_path_factory.mktemp("sound"), fp16=True)


@pytest.fixture
def bundle(sound, tmp_path):
    shutil.copytree(sound.path, tmp_path / "bundle", ignore=shutil.ignore_patterns("certificate.*"))
    return open_bundle(tmp_path / "bundle")


def spoil(bundle, file, change):
    """Change a graph as `change` says and enter its new hash."""
    model = onnx.load(bundle.path / file)
    name = change(model)
    onnx.save(model, bundle.path / file)
    path = bundle.path / "bundle.json"
    manifest = json.loads(path.read_text())
    for graph in manifest["graphs"]:
        graph["sha256"] = sha256_of(bundle.path / graph["file"])
    path.write_text(json.dumps(manifest))
    return name


def scale_convolution(number, factor):
    def change(model):
        node = [node for node in model.graph.node if node.op_type == "Conv"][number]
        tensor = next(one for one in model.graph.initializer if one.name == node.input[1])
        weights = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array((weights * factor).astype(weights.dtype), tensor.name))
        return node.name

    return change


def wrong_mode(model):
    node = next(node for node in model.graph.node if node.op_type == "Resize")
    next(attribute for attribute in node.attribute if attribute.name == "mode").s = b"linear"
    return node.name


def overflow(model):
    node = [node for node in model.graph.node if node.op_type == "Conv"][2]
    tensor = next(one for one in model.graph.initializer if one.name == node.input[2])
    biases = np.full(tuple(tensor.dims), np.inf, np.float16)
    tensor.CopyFrom(onnx.numpy_helper.from_array(biases, tensor.name))
    return node.name


def test_sound_graphs_have_no_culprit(sound):
    plain, half = bisect_model(open_model(sound.path))
    assert plain.culprit is half.culprit is None
    assert plain.against == "the network exported again"
    assert half.against == "model.fp32.onnx"
    assert half.compared > 20
    assert half.steepest is not None
    assert half.steepest.after < 0.01
    assert "has no node that goes wrong" in half.describe()


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("model.fp16.onnx", scale_convolution(5, 1.3)),
        ("model.fp16.onnx", wrong_mode),
        ("model.fp16.onnx", overflow),
        ("model.fp32.onnx", scale_convolution(1, 1.05)),
    ],
    ids=["fp16 weights", "fp16 resize", "fp16 overflow", "fp32 weights"],
)
def test_the_first_bad_node_is_named(bundle, file, change):
    name = spoil(bundle, file, change)
    found = {one.file: one for one in bisect_model(open_model(bundle.path))}
    culprit = found[file].culprit
    assert culprit is not None
    assert repr(name) in culprit.node
    assert culprit.before < 0.01
    assert culprit.after > 4 * culprit.before
    assert f"{file} goes wrong at {culprit.node}: relative error" in found[file].describe()


def test_the_command_prints_it(bundle, capsys):
    name = spoil(bundle, "model.fp16.onnx", scale_convolution(0, 0.0))
    assert main(["verify", str(bundle.path), "--backend", "onnxruntime:fp16", "--bisect"]) == 3
    out = capsys.readouterr().out
    assert f"bisect: model.fp16.onnx goes wrong at Conv '{name}': relative error" in out


def test_a_lone_graph_cannot_be_bisected(sound):
    with pytest.raises(InputError, match="is not a bundle: --bisect compares its graphs with each other"):
        bisect_model(open_model(sound.graph("fp32")))


def test_errors_are_shares_of_what_is_due():
    due = np.array([3.0, 4.0])
    assert measure_error(due * 1.1, due) == pytest.approx(0.1)
    assert measure_error(np.array([np.nan, 1.0]), due) == np.inf
    assert measure_error(due[:1], due) == np.inf
    assert measure_error(due * 0, due * 0) == 0
