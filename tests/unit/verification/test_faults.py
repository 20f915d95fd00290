"""Faults put into bundles. The forger knows the hashes: what he changes is recorded as if it had always been so."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from sr_deploy.backends import BackendChoice
from sr_deploy.bundle import Bundle, open_bundle
from sr_deploy.cli import main
from sr_deploy.export.fp16 import convert_graph_to_fp16
from sr_deploy.files import sha256_of
from sr_deploy.verification.verify import verify_model

ONE = [BackendChoice("onnxruntime")]


@pytest.fixture(scope="module")
def sound(make_bundle, tmp_path_factory):
    return make_bundle("rrdbnet-x4", tmp_path_factory.mktemp("sound"), fp16=True)


@pytest.fixture
def bundle(sound, tmp_path):
    """A copy to be spoilt."""
    shutil.copytree(sound.path, tmp_path / "bundle", ignore=shutil.ignore_patterns("certificate.*"))
    return open_bundle(tmp_path / "bundle")


def forge(bundle: Bundle, file: str) -> None:
    """Enter the present hash of a graph into the manifest."""
    path = bundle.path / "bundle.json"
    manifest = json.loads(path.read_text())
    for graph in manifest["graphs"]:
        if graph["file"] == file:
            graph["sha256"] = sha256_of(bundle.path / file)
    path.write_text(json.dumps(manifest))


def change_graph(bundle: Bundle, file: str, change: Callable[[onnx.ModelProto], None]) -> None:
    path = bundle.path / file
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def change_tensor(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = next(one for one in model.graph.initializer if one.name == name)
    values = change(onnx.numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))


def convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Conv"]


def one_weight_by_one_percent(model: onnx.ModelProto) -> None:
    def nudge(weights):
        weights[1, 2, 0, 1] *= np.asarray(1.01, weights.dtype)
        return weights

    change_tensor(model, convolutions(model)[3].input[1], nudge)


def swapped_channels(model: onnx.ModelProto) -> None:
    change_tensor(model, convolutions(model)[-1].input[1], lambda weights: weights[::-1])
    change_tensor(model, convolutions(model)[-1].input[2], lambda biases: biases[::-1])


def resize_in_the_wrong_mode(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Resize")
    for attribute in node.attribute:
        if attribute.name == "mode":
            attribute.s = b"linear"


def other_input(model: onnx.ModelProto) -> None:
    """A sum that reads one of its inputs twice."""
    node = next(node for node in model.graph.node if node.op_type == "Add")
    node.input[0] = node.input[1]


GRAPH_FAULTS = {
    "one weight by 1 %": (one_weight_by_one_percent, r"values differ beyond rounding, most at \(1, 2, 0, 1\)"),
    "swapped channels": (swapped_channels, "values differ beyond rounding"),
    "resize mode": (resize_in_the_wrong_mode, "Resize .* has mode 'linear' where 'nearest' is due"),
    "wiring": (other_input, "Add .* reads .* where .* is due"),
}


def find_check(verification, kind, file):
    return next(check for check in verification.checks if (check.kind, check.file) == (kind, file))


def test_a_sound_bundle_passes_every_check(sound):
    verification = verify_model(sound.path)
    assert verification.failures == ()
    kinds = [(check.kind, check.file) for check in verification.checks]
    assert kinds == [
        ("certificate", "certificate.json"),
        ("weights", "model.fp32.onnx"),
        ("precision", "model.fp32.onnx"),
        ("precision", "model.fp16.onnx"),
        ("weights", "model.fp16.onnx"),
    ]
    assert open_bundle(sound.path).certificate().checks == verification.checks


@pytest.mark.parametrize(("fault", "message"), GRAPH_FAULTS.values(), ids=GRAPH_FAULTS)
def test_faults_of_the_fp16_graph_are_found_in_its_content(bundle, capsys, fault, message):
    change_graph(bundle, "model.fp16.onnx", fault)
    forge(bundle, "model.fp16.onnx")
    assert main(["verify", str(bundle.path), "--backend", "onnxruntime:fp16", "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert "model.fp16.onnx (weights)" in document["failures"]
    (check,) = [check for check in document["checks"] if check["findings"]]
    assert (check["kind"], check["file"]) == ("weights", "model.fp16.onnx")
    assert any(re.search(message, line) for line in check["findings"])


@pytest.mark.parametrize("fault", [swapped_channels, resize_in_the_wrong_mode], ids=lambda fault: fault.__name__)
def test_faults_of_the_fp32_graph_are_found_by_running_it_and_by_its_twin(bundle, fault):
    change_graph(bundle, "model.fp32.onnx", fault)
    forge(bundle, "model.fp32.onnx")
    verification = verify_model(bundle.path, choices=ONE)
    assert "model.fp32.onnx on onnxruntime:fp32" in verification.failures
    assert "model.fp16.onnx (weights)" in verification.failures  # made of another FP32 graph than this one


@pytest.mark.parametrize("deep", [False, True])
def test_one_weight_of_all_graphs_is_found_though_running_them_does_not_show_it(bundle, deep):
    change_graph(bundle, "model.fp32.onnx", one_weight_by_one_percent)
    convert_graph_to_fp16(bundle.graph("fp32"), bundle.graph("fp16"))
    for file in ("model.fp32.onnx", "model.fp16.onnx"):
        forge(bundle, file)
    verification = verify_model(bundle.path, choices=ONE, deep=deep)
    assert verification.failures == ("model.fp32.onnx (weights)",)
    check = find_check(verification, "weights", "model.fp32.onnx")
    assert ("the network exported again" if deep else "the network itself") in check.what
    assert len(check.findings) == 1
    assert "1 of 576 values differ beyond rounding, most at (1, 2, 0, 1)" in check.findings[0]


@pytest.mark.parametrize("file", ["model.fp16.onnx", "model.fp32.onnx", "generator.safetensors"])
def test_plain_changes_are_found_by_the_hash(bundle, capsys, file):
    content = bytearray((bundle.path / file).read_bytes())
    content[-5] ^= 1
    (bundle.path / file).write_bytes(content)
    assert main(["verify", str(bundle.path)]) == 3
    assert f"{file} was changed after it was recorded" in capsys.readouterr().err
    assert main(["info", str(bundle.path)]) == 1  # elsewhere it is wrong input


def test_missing_and_damaged_files_are_named(bundle, capsys):
    (bundle.path / "model.fp16.onnx").unlink()
    assert main(["verify", str(bundle.path), "--json"]) == 3
    said = json.loads(capsys.readouterr().out)["error"]
    assert (said["kind"], said["exit_code"]) == ("VerificationError", 3)
    assert "model.fp16.onnx is missing" in said["message"]
    (bundle.path / "bundle.json").write_text("{")
    assert main(["verify", str(bundle.path)]) == 3
    assert "bundle.json is damaged" in capsys.readouterr().err


def test_an_fp32_graph_labeled_fp16_is_found(bundle, capsys):
    shutil.copyfile(bundle.graph("fp32"), bundle.path / "model.fp16.onnx")
    forge(bundle, "model.fp16.onnx")
    assert main(["verify", str(bundle.path), "--backend", "onnxruntime:fp16"]) == 3
    out = capsys.readouterr().out.replace("\n", "")
    assert "model.fp16.onnx (precision)" in out
    assert "computes in fp32, and the graph is to be fp16" in out
    assert "its metadata say fp32" in out


def test_a_certificate_of_another_bundle_is_found_and_stays_found(bundle, make_bundle, tmp_path):
    other = make_bundle("rrdbnet-x2", tmp_path, fp16=True)
    verify_model(other.path, choices=ONE)
    shutil.copyfile(other.path / "certificate.json", bundle.path / "certificate.json")
    found = verify_model(bundle.path, choices=ONE)
    assert found.failures == ("certificate.json (certificate)",)
    assert "was changed after it was recorded" in find_check(found, "certificate", "certificate.json").findings[0]
    assert verify_model(bundle.path, choices=ONE).failures == found.failures  # though what was measured took its place


def test_a_graph_that_loses_more_than_its_budget_fails(bundle):
    path = bundle.path / "bundle.json"
    manifest = json.loads(path.read_text())
    drops = {}
    for allowed in (0.0, 1.0):
        manifest["thresholds"] = {"fp16": {"psnr_db": 55.0, "max_drop_db": allowed}}
        path.write_text(json.dumps(manifest))
        verification = verify_model(bundle.path)
        error_budget = next(one for one in verification.error_budgets if one.precision == "fp16")
        drops[allowed] = find_check(verification, "drop", "model.fp16.onnx")
        assert bool(drops[allowed].findings) == (error_budget.drop_db > allowed)
        assert ("model.fp16.onnx (drop)" in verification.failures) == (error_budget.drop_db > allowed)
    assert "dB lost on 4 photographs of" in drops[1.0].what
    assert drops[1.0].passed
