"""What FP32 is allowed: derived from its own rounding, shown with its origin, and no word of a file is taken for it."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.weights import save_generator
from sr_deploy.bundle import Shape, open_bundle, parse_profile
from sr_deploy.bundle.tolerance import FP32_MULTIPLE, MAX_ALLOWANCE, Fp32Rounding, derive_floor, derive_limit
from sr_deploy.cli import main
from sr_deploy.deploy import export_bundle
from sr_deploy.export.spec import load_spec
from sr_deploy.files import sha256_of
from sr_deploy.model import open_model
from sr_deploy.verification.contents import PHOTOGRAPH
from sr_deploy.verification.grid import Cost, Point
from sr_deploy.verification.reference import ReferenceOutputs
from sr_deploy.verification.verify import verify_model
from tests.unit.certificates import edit_certificate

OFFSET = 300.0
SPEC = ArchSpec(architecture="compact", scale=2, features=16, blocks=2)
PROFILES = (parse_profile("tile=1x8x8,1x16x16,1x24x24"),)
WORDS = ["--backend", "onnxruntime:fp32", "--json"]


def build_coarse_network():
    """Its features lie around 300 and their weights cancel that: what FP32 rounds there is left over."""
    torch.manual_seed(1)
    network = build_network(SPEC)
    convolutions = [one for one in network.modules() if isinstance(one, torch.nn.Conv2d)]
    with torch.no_grad():
        convolutions[-2].bias.fill_(OFFSET)
        convolutions[-1].weight -= convolutions[-1].weight.mean(dim=1, keepdim=True)
    return network


@pytest.fixture(scope="module")
def coarse(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coarse")
    save_generator(folder / "coarse.safetensors", build_coarse_network().state_dict(), SPEC)
    spec = load_spec().with_options(profiles=PROFILES)
    result = export_bundle(folder / "coarse.safetensors", spec, folder / "bundle", backend="none")
    assert result.passed, result.certificate
    return result.bundle


@pytest.fixture
def bundle(coarse, tmp_path):
    shutil.copytree(coarse.path, tmp_path / "bundle")
    return open_bundle(tmp_path / "bundle")


def run_verify(bundle, capsys):
    code = main(["verify", str(bundle.path), *WORDS])
    return code, json.loads(capsys.readouterr().out)


def loosen(entry, off_by):
    """As if FP32 rounded so coarsely that an error of `off_by` were nothing."""
    rounding = {"max_abs": off_by / 2, "psnr_db": 50.0}
    allowed = min(FP32_MULTIPLE * off_by / 2, MAX_ALLOWANCE)
    needed = -20 * math.log10(min(FP32_MULTIPLE * 10 ** (-50 / 20), MAX_ALLOWANCE))
    bad = {"max_abs": off_by, "psnr_db": 70.0, "fp32_rounding": rounding, "allowed": allowed, "needed_db": needed}
    entry["measurements"] = [one | bad for one in entry["measurements"]]
    entry |= {"worst_max_abs": off_by, "worst_psnr_db": 70.0, "passed": True}


@pytest.mark.parametrize(
    ("rounding", "limit"),
    [(None, 1e-5), (1e-7, 1e-5), (1e-5, FP32_MULTIPLE * 1e-5), (0.1, MAX_ALLOWANCE)],
    ids=["not measured", "less than the threshold", "a multiple", "what 8 bit hides"],
)
def test_the_bound_is_a_multiple_of_the_rounding_within_two_limits(rounding, limit):
    found = None if rounding is None else Fp32Rounding(max_abs=rounding, psnr_db=-20 * math.log10(rounding))
    assert derive_limit(1e-5, found) == limit
    assert derive_floor(100.0, found) == pytest.approx(min(100.0, -20 * math.log10(limit)))


def test_a_sound_graph_of_a_network_that_rounds_coarsely_passes_and_says_why(coarse):
    entries = [one for one in coarse.certificate().entries if one.precision == "fp32"]
    assert {entry.backend for entry in entries} == {"onnxruntime:fp32", "openvino:fp32"}
    for entry in entries:
        assert (entry.passed, entry.reference, entry.thresholds["max_abs"]) == (True, "torch:fp64", 1e-5)
        assert entry.worst_max_abs > 1e-5
        for one in entry.measurements:
            assert one.max_abs <= entry.limit_of(one)
            if one.max_abs > 1e-5:
                assert one.allowed == min(FP32_MULTIPLE * one.fp32_rounding.max_abs, MAX_ALLOWANCE)
    page = (coarse.path / "certificate.html").read_text()
    assert "is allowed 8 times what PyTorch&#x27;s own FP32 is off by on" in page


def test_the_terminal_says_where_the_bound_comes_from(bundle, capsys):
    assert main(["verify", str(bundle.path), "--backend", "openvino:fp32"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "openvino:fp32 is allowed 8 times what PyTorch's own FP32 is off by on" in text
    assert "against float64; 1e-05 at least, 2e-03 (half an 8-bit step) at most" in text


def test_a_failure_names_the_input_the_place_and_what_a_picture_shows(bundle, capsys):
    path = bundle.path / "model.fp32.onnx"
    model = onnx.load(path)
    name = [node for node in model.graph.node if node.op_type == "Conv"][-1].input[1]
    tensor = next(one for one in model.graph.initializer if one.name == name)
    weights = numpy_helper.to_array(tensor).copy()
    weights[5] += 0.01  # channel 5 of 12 is the second color of one pixel in each 2x2
    tensor.CopyFrom(numpy_helper.from_array(weights, name))
    onnx.save(model, path)
    manifest = json.loads((bundle.path / "bundle.json").read_text())
    manifest["graphs"][0]["sha256"] = sha256_of(path)
    (bundle.path / "bundle.json").write_text(json.dumps(manifest))
    (bundle.path / "certificate.json").unlink()
    code, document = run_verify(bundle, capsys)
    (where,) = [one["where"] for one in document["findings"] if one["kind"] == "run"]
    assert code == 3
    assert ", image 0, channel 1, row " in where
    assert "a picture would show it: " in where
    assert "of its 8-bit samples change by more than one step" in where


def test_a_bound_that_does_not_follow_from_the_rounding_is_found(bundle, capsys):
    def forge(document):
        entry = document["entries"][0]
        loosen(entry, 1e-3)
        for one in entry["measurements"]:
            del one["fp32_rounding"]

    edit_certificate(bundle, forge)
    code, document = run_verify(bundle, capsys)
    assert code == 3
    (finding,) = [one for one in document["findings"] if one["kind"] == "certificate"]
    assert "allows a difference of 0.00196078 on " in finding["lines"][0]
    assert " where 1e-05 is due" in finding["lines"][0]


def test_rounding_that_is_invented_is_measured_again(bundle, capsys):
    """The figures agree with each other, so only PyTorch can tell; it is asked for entries of other machines too."""

    def forge(document):
        entry = json.loads(json.dumps(document["entries"][0])) | {"machine": "another", "cpu_features": []}
        loosen(entry, 1e-3)
        document["entries"].append(entry)

    edit_certificate(bundle, forge)
    assert not any(check.findings for check in open_bundle(bundle.path).certificate().checks)
    for _ in range(2):  # and the finding stays
        code, document = run_verify(bundle, capsys)
        assert code == 3
        (finding,) = [one for one in document["findings"] if one["kind"] == "certificate"]
        assert "(another) says that PyTorch's FP32 is off by 5.0e-04 on " in finding["lines"][0]
        assert ", and here it is " in finding["lines"][0]


def test_a_loosened_certificate_does_not_turn_a_failure_into_a_success(bundle):
    """What runs now is held to what is measured now."""
    path = bundle.path / "model.fp32.onnx"
    model = onnx.load(path)
    name = next(node for node in model.graph.node if node.op_type == "Conv").input[1]
    tensor = next(one for one in model.graph.initializer if one.name == name)
    weights = numpy_helper.to_array(tensor).copy()
    weights.flat[np.abs(weights).argmax()] += 1.0
    tensor.CopyFrom(numpy_helper.from_array(weights, name))
    onnx.save(model, path)
    sha256 = sha256_of(path)
    manifest = json.loads((bundle.path / "bundle.json").read_text())
    manifest["graphs"][0]["sha256"] = sha256
    (bundle.path / "bundle.json").write_text(json.dumps(manifest))

    def forge(document):
        document["checks"] = []
        document["error_budgets"] = []
        document["last"] = None
        for entry in document["entries"]:
            entry["artifact"]["sha256"] = sha256
            loosen(entry, 1.9e-3)

    edit_certificate(bundle, forge)
    found = verify_model(bundle.path)
    assert not any(entry.passed for entry in found.entries)
    assert found.verdict == "failed"


def test_an_input_too_large_for_float64_is_compared_with_fp32_and_that_is_said(coarse):
    model = open_model(coarse.path)
    point = Point(Shape(1, 37, 53), PHOTOGRAPH)
    with ReferenceOutputs(model) as exact, ReferenceOutputs(model, Cost(1e9, 12)) as coarser:
        assert (exact.find(point).reference, exact.find(point).sr_NCHW.dtype) == (None, np.float64)
        assert (coarser.find(point).reference, coarser.find(point).sr_NCHW.dtype) == ("torch:fp32", np.float32)
        assert np.abs(exact.find(point).sr_NCHW - coarser.find(point).sr_NCHW).max() > 1e-7
        assert coarser.measure_rounding(point).max_abs > 0


@pytest.mark.parametrize(
    "spec",
    [
        ArchSpec(architecture="rrdbnet", scale=4, features=8, blocks=1, growth=4),
        ArchSpec(architecture="srresnet", scale=2, features=8, blocks=1),
        ArchSpec(architecture="msrresnet", scale=4, features=8, blocks=1),
    ],
    ids=lambda spec: spec.architecture,
)
def test_networks_run_in_float64(tmp_path, write_network, spec):
    write_network(tmp_path / "net.safetensors", spec)
    point = Point(Shape(2, 12, 16), PHOTOGRAPH)
    with ReferenceOutputs(open_model(tmp_path / "net.safetensors")) as outputs:
        assert outputs.find(point).sr_NCHW.dtype == np.float64
        assert 0 < outputs.measure_rounding(point).max_abs < 1e-4
