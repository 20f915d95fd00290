"""What `--backend auto` may take: FP32, and what the certificate covers on this machine."""

from __future__ import annotations

import json
import shutil

import pytest

from sr_deploy.backends import BackendChoice
from sr_deploy.backends.registry import get_backend
from sr_deploy.bundle import Certificate, CertificateEntry, Check, FileRecord, Measurement, open_bundle, utc_now
from sr_deploy.bundle.store import CERTIFICATE_NAME, MANIFEST_NAME
from sr_deploy.deps import installed_version
from sr_deploy.export.float_format import BF16
from sr_deploy.export.fp16 import convert_graph_to_format
from sr_deploy.files import sha256_of
from sr_deploy.measure.machine import describe_machine
from sr_deploy.model import open_model
from sr_deploy.runners.faithful import explain_left_out, list_faithful
from sr_deploy.verification.verify import verify_model

FULL = ["openvino:fp32", "onnxruntime:fp32", "torch:fp32"]
INT8 = {
    "max_drop_db": 0.05,
    "max_pixel_error": 0.2,
    "drop_db": 0.01,
    "max_abs": 0.1,
    "psnr_fp32_db": 45.0,
    "share": 0.9,
    "passed": True,
}


@pytest.fixture(scope="module")
def plain(make_bundle, tmp_path_factory):
    return make_bundle("compact-x4", tmp_path_factory.mktemp("plain"), fp16=True)


def add_graph(path, precision, **fields):
    """Enter `model.PRECISION.onnx`, which lies in the bundle's folder, into the manifest."""
    file = f"model.{precision}.onnx"
    manifest = json.loads((path / MANIFEST_NAME).read_text())
    manifest["graphs"].append({"file": file, "sha256": sha256_of(path / file), "precision": precision})
    (path / MANIFEST_NAME).write_text(json.dumps(manifest | fields))


@pytest.fixture
def with_bf16(plain, tmp_path):
    path = tmp_path / "bundle"
    shutil.copytree(plain.path, path)
    convert_graph_to_format(path / "model.fp32.onnx", path / "model.bf16.onnx", BF16)
    add_graph(path, "bf16")
    return open_bundle(path)


@pytest.fixture
def bundle(with_bf16):
    """With a graph that is INT8 by name; nothing here runs it."""
    path = with_bf16.path
    shutil.copyfile(path / "model.fp32.onnx", path / "model.int8.onnx")
    files = {"report": "int8.json", "picture": "int8-search.svg"}
    for name in files.values():
        (path / name).write_text("{}")
    records = {key: {"file": name, "sha256": sha256_of(path / name)} for key, name in files.items()}
    add_graph(path, "int8", int8=INT8 | records)
    return open_bundle(path)


def make_entry(bundle, choice, file, **changes):
    machine = describe_machine()
    backend, _, precision = choice.partition(":")
    fields = {
        "artifact": FileRecord(file=file, sha256=sha256_of(bundle.path / file)),
        "precision": precision,
        "backend": choice,
        "backend_version": installed_version(get_backend(backend).package),
        "machine": machine.cpu,
        "cpu_features": machine.features,
        "reference": "torch:fp32",
        "reference_sha256": bundle.manifest.reference.sha256,
        "measured_at": utc_now(),
        "thresholds": {"psnr_db": 35.0},
        "measurements": (
            Measurement(shape="1x8x8", content="photograph", max_abs=0.05, psnr_db=40.0, changed_8bit=0.5),
        ),
        "worst_max_abs": 0.05,
        "worst_psnr_db": 40.0,
        "passed": True,
    }
    return CertificateEntry(**fields | changes)


def certify(bundle, *entries, checks=()):
    text = Certificate(entries=entries, checks=checks).model_dump_json()
    (bundle.path / CERTIFICATE_NAME).write_text(text)
    return open_model(bundle.path)


def names(model):
    return list(map(str, list_faithful(model)))


def test_without_a_certificate_only_fp32_counts(plain, bundle):
    assert names(open_model(plain.path)) == FULL
    assert names(open_model(plain.path / "generator.safetensors")) == ["torch:fp32"]
    assert names(open_model(plain.path / "model.fp32.onnx")) == FULL[:2]
    assert names(open_model(plain.path / "model.fp16.onnx")) == [
        "openvino:fp32",
        "onnxruntime:fp16",
    ]  # OpenVINO has no FP16, and computes its numbers in FP32
    assert explain_left_out(open_model(plain.path)) == []
    model = open_model(bundle.path)
    assert names(model) == FULL
    told = explain_left_out(model)
    assert "onnxruntime:int8 left out: not verified on this machine with these versions" in told[-2]
    assert told[-1].endswith(f"run: sr-deploy verify {bundle.path}")
    assert told[-1].startswith("torch:bf16 left out")


def test_nobody_is_sent_to_verify_what_keeps_no_entries(bundle, monkeypatch):
    monkeypatch.setattr("sr_deploy.runners.faithful.is_shipped", lambda path: path == bundle.path)
    told = explain_left_out(open_model(bundle.path))
    assert told[-1] == "torch:bf16 left out: not verified on this machine with these versions"


def test_what_was_asked_for_and_passed_here_counts(bundle):
    model = certify(
        bundle,
        make_entry(bundle, "onnxruntime:int8", "model.int8.onnx"),
        make_entry(bundle, "torch:bf16", "generator.safetensors"),
        make_entry(bundle, "torch:fp16", "generator.safetensors"),  # slow or computed in FP32: never taken
    )
    assert names(model) == [*FULL, "onnxruntime:int8", "torch:bf16"]
    assert not any(line.startswith(("onnxruntime:int8", "torch:bf16")) for line in explain_left_out(model))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"passed": False}, "its verification failed on this machine"),
        ({"machine": "another processor"}, "not verified on this machine"),
        ({"cpu_features": ("sse2",)}, "not verified on this machine"),
        ({"cpu_features": ()}, "not verified on this machine"),  # written by an older sr-deploy
        ({"backend_version": "1.0"}, "not verified on this machine with these versions"),
        ({"reference_sha256": "0" * 64}, "not verified on this machine"),
        ({"artifact": FileRecord(file="model.int8.onnx", sha256="0" * 64)}, "not verified on this machine"),
        ({"backend": "onnxruntime:fp32"}, "not verified on this machine"),
    ],
)
def test_an_entry_of_something_else_does_not_count(bundle, changes, reason):
    model = certify(bundle, make_entry(bundle, "onnxruntime:int8", "model.int8.onnx", **changes))
    assert names(model) == FULL
    (told,) = [line for line in explain_left_out(model) if line.startswith("onnxruntime:int8")]
    assert reason in told


def test_a_precision_that_nobody_asked_for_is_not_taken(plain, tmp_path):
    shutil.copytree(plain.path, tmp_path / "copy")
    copy = open_bundle(tmp_path / "copy")
    assert names(certify(copy, make_entry(copy, "torch:bf16", "generator.safetensors"))) == FULL


def test_int8_beyond_its_budget_is_not_taken(bundle):
    manifest = json.loads((bundle.path / MANIFEST_NAME).read_text())
    manifest["int8"]["passed"] = False  # kept with --force
    (bundle.path / MANIFEST_NAME).write_text(json.dumps(manifest))
    model = certify(bundle, make_entry(bundle, "onnxruntime:int8", "model.int8.onnx"))
    assert names(model) == FULL
    assert any("not within the budget that it was made for" in line for line in explain_left_out(model))


def test_a_failed_check_of_the_file_counts_against_it(bundle):
    check = Check(
        kind="drop",
        file="model.int8.onnx",
        sha256=sha256_of(bundle.path / "model.int8.onnx"),
        what="against the photographs themselves",
        findings=("0.2 dB lost, 0.05 allowed",),
        checked_at=utc_now(),
    )
    entries = (
        make_entry(bundle, "onnxruntime:int8", "model.int8.onnx"),
        make_entry(bundle, "torch:bf16", "generator.safetensors"),
    )
    model = certify(bundle, *entries, checks=(check,))
    assert names(model) == [*FULL, "torch:bf16"]
    assert any("a check of model.int8.onnx failed" in line for line in explain_left_out(model))


def test_a_damaged_certificate_covers_nothing(bundle):
    (bundle.path / CERTIFICATE_NAME).write_text("{")
    model = open_model(bundle.path)
    assert names(model) == FULL
    assert "certificate.json is damaged" in explain_left_out(model)[0]


def test_what_verify_writes_is_what_counts(with_bf16):
    assert names(open_model(with_bf16.path)) == FULL
    assert verify_model(with_bf16.path, choices=[BackendChoice("torch", "bf16")]).entries[0].passed
    assert names(open_model(with_bf16.path)) == [*FULL, "torch:bf16"]
