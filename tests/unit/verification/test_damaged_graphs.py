"""A bundle whose graph is damaged, with the hash of the damaged file in its manifest, as a forger would leave it."""

import hashlib
import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from sr_deploy.backends.onnxruntime import runner as onnxruntime_runner
from sr_deploy.backends.openvino import runner as openvino_runner
from sr_deploy.cli import main
from sr_deploy.errors import GraphError
from sr_deploy.runners import open_runner


def cut(model):
    return model.SerializeToString()[:2000]


def reshape_weight(model):
    model.graph.initializer[0].dims.append(2)
    return model.SerializeToString()


def unplug(model):
    model.graph.node[3].input[0] = "nowhere"
    return model.SerializeToString()


def blow_up(model):
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["many"], ["large"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**40]), "many"))
    return model.SerializeToString()


@pytest.fixture(params=[cut, reshape_weight, unplug, blow_up], ids=lambda change: change.__name__)
def forged(request, make_bundle, tmp_path):
    path = make_bundle("compact-x4", tmp_path).path
    graph, manifest = path / "model.fp32.onnx", path / "bundle.json"
    content = request.param(onnx.load(graph))
    graph.write_bytes(content)
    document = json.loads(manifest.read_text())
    (record,) = [one for one in document["graphs"] if one["file"] == graph.name]
    record["sha256"] = hashlib.sha256(content).hexdigest()
    manifest.write_text(json.dumps(document))
    return path


def test_verify_says_that_it_is_not_verified(forged, capsys):
    assert main(["verify", str(forged)]) == 3
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert line.startswith(f"error: NOT verified: {forged / 'model.fp32.onnx'}")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_no_backend_opens_it(forged, backend, monkeypatch):
    def refuse(*_arguments, **_options):
        raise AssertionError("a backend was given the file")

    monkeypatch.setattr(onnxruntime_runner, "open_session", refuse)
    monkeypatch.setattr(openvino_runner, "_compile", refuse)
    with pytest.raises(GraphError, match=r"model\.fp32\.onnx"):
        open_runner(forged, backend)
