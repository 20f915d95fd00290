import json
import math

import numpy as np
import onnx
import pytest

from sr_deploy.backends import BackendChoice
from sr_deploy.bundle import Certificate, EngineRecord, FileRecord, Thresholds, open_bundle, parse_profile
from sr_deploy.errors import BackendError, BundleError, InputError
from sr_deploy.files import sha256_of
from sr_deploy.gpus import visible_gpus
from sr_deploy.model import open_model
from sr_deploy.verification.candidates import list_not_run
from sr_deploy.verification.contents import CONTENTS
from sr_deploy.verification.entry import worst_entry
from sr_deploy.verification.grid import SHAPES, STRIPS
from sr_deploy.verification.verify import verify_model


def change_weights(source, target, change):
    """A copy of a graph whose first convolution's weights went through `change`."""
    model = onnx.load(source)
    name = next(node for node in model.graph.node if node.op_type == "Conv").input[1]
    tensor = next(one for one in model.graph.initializer if one.name == name)
    weights = change(onnx.numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(onnx.numpy_helper.from_array(weights, name))
    onnx.save(model, target)
    return target


def nudge_one(weights):
    weights.flat[0] += 0.01
    return weights


@pytest.fixture(scope="module")
def verified(make_bundle, tmp_path_factory):
    bundle = make_bundle("compact-x4", tmp_path_factory.mktemp("verify"), fp16=True)
    return bundle, verify_model(bundle.path).entries


def test_every_graph_of_a_bundle_is_verified_and_bound_to_its_bytes(verified):
    bundle, entries = verified
    by_backend = {entry.backend: entry for entry in entries}
    assert list(by_backend) == ["onnxruntime:fp32", "openvino:fp32", "onnxruntime:fp16", "torch:fp16"]
    assert all(entry.passed for entry in entries)
    for entry in entries:
        assert entry.artifact.sha256 == sha256_of(bundle.path / entry.artifact.file)
        assert entry.reference == "torch:fp64"
        assert entry.reference_sha256 == bundle.manifest.reference.sha256
        assert entry.worst_max_abs == max(one.max_abs for one in entry.measurements)
        assert {one.content for one in entry.measurements} == set(CONTENTS)
        for one in entry.measurements:
            assert one.mean_abs <= one.max_abs
            assert one.changed_8bit_more <= one.changed_8bit
            assert (one.worst is None) == (one.max_abs == 0)
            assert (one.ssim is None) == (min(map(int, one.shape.split("x")[1:])) < 3)  # x4: 8 pixels are too few
    assert by_backend["onnxruntime:fp32"].worst_max_abs <= 1e-5
    shapes = {one.shape for one in by_backend["openvino:fp32"].measurements}
    assert shapes == {*map(str, (*SHAPES, *STRIPS)), "1x8x8", "1x16x16", "1x32x32"}  # the last are of its profile
    assert by_backend["onnxruntime:fp16"].artifact.file == "model.fp16.onnx"
    assert by_backend["torch:fp16"].artifact.file == "generator.safetensors"
    assert 55 < by_backend["torch:fp16"].worst_psnr_db < 120


def test_entries_say_what_runners_rewrote(verified):
    bundle, entries = verified
    by_backend = {entry.backend: entry.rewrites for entry in entries}
    assert by_backend == {
        "onnxruntime:fp32": ("nearest_skip", "prelu"),
        "openvino:fp32": ("nearest_skip",),
        "onnxruntime:fp16": (),
        "torch:fp16": (),
    }
    document = json.loads((bundle.path / "certificate.json").read_text())
    assert document["entries"][0]["rewrites"] == ["nearest_skip", "prelu"]
    for entry in document["entries"]:
        del entry["rewrites"]  # as they were before runners rewrote anything
    assert [entry.rewrites for entry in Certificate.model_validate(document).entries] == [()] * 4


def test_the_certificate_holds_what_was_returned(verified):
    bundle, entries = verified
    certificate = open_bundle(bundle.path).certificate()
    assert certificate.entries == entries
    assert [error_budget.precision for error_budget in certificate.error_budgets] == ["fp32", "fp16"]


def test_certificates_without_what_came_later_are_still_read(verified):
    bundle, entries = verified
    document = json.loads((bundle.path / "certificate.json").read_text())
    del document["checks"], document["error_budgets"]
    for entry in document["entries"]:
        del entry["left_out"]
        for one in entry["measurements"]:
            for name in ("changed_8bit_more", "mean_abs", "ssim", "worst"):
                del one[name]
    old = Certificate.model_validate(document)
    assert old.checks == old.error_budgets == ()
    assert [entry.worst_max_abs for entry in old.entries] == [entry.worst_max_abs for entry in entries]


def test_the_fp16_figure_is_the_worse_of_both(verified):
    _, entries = verified
    figures = {entry.backend: entry.worst_psnr_db for entry in entries if entry.precision == "fp16"}
    assert set(figures) == {"onnxruntime:fp16", "torch:fp16"}
    assert worst_entry(entries, "fp16").worst_psnr_db == min(figures.values())
    assert worst_entry(entries, "int8") is None


@pytest.mark.parametrize("name", ["rrdbnet-x2", "srresnet-x2-gray", "msrresnet-x4", "rrdbnet-x1-gray"])
def test_other_networks_pass_too(make_bundle, tmp_path, name):
    bundle = make_bundle(name, tmp_path)
    entries = verify_model(bundle.path).entries
    assert [(entry.backend, entry.passed) for entry in entries] == [("onnxruntime:fp32", True), ("openvino:fp32", True)]
    multiple = bundle.manifest.input_multiple
    for entry in entries:
        for one in entry.measurements:
            assert all(int(side) % multiple == 0 for side in one.shape.split("x")[1:])


@pytest.mark.parametrize(
    "change",
    [nudge_one, lambda weights: np.ascontiguousarray(weights[:, ::-1])],
    ids=["one weight changed", "channels swapped"],
)
def test_a_graph_that_computes_something_else_fails(make_bundle, exported, tmp_path, change):
    graph = change_weights(exported("compact-x4").path, tmp_path / "changed.onnx", change)
    bundle = make_bundle("compact-x4", tmp_path, graph=graph)
    entries = verify_model(bundle.path).entries
    assert [entry.passed for entry in entries] == [False, False]
    assert min(entry.worst_max_abs for entry in entries) > 1e-4
    assert not any(entry.passed for entry in open_bundle(bundle.path).certificate().entries)


def test_a_graph_changed_after_it_was_recorded_is_not_even_run(make_bundle, tmp_path):
    bundle = make_bundle("compact-x4", tmp_path)
    path = bundle.path / "model.fp32.onnx"
    change_weights(path, path, nudge_one)
    with pytest.raises(BundleError, match=r"model.fp32.onnx was changed after it was recorded"):
        verify_model(bundle.path)


def test_an_output_that_is_not_finite_fails_and_is_written_down(make_bundle, exported, tmp_path):
    graph = change_weights(exported("compact-x4").path, tmp_path / "nan.onnx", lambda weights: weights * np.nan)
    bundle = make_bundle("compact-x4", tmp_path, graph=graph)
    (entry,) = verify_model(bundle.path, choices=[BackendChoice("onnxruntime", "fp32")]).entries
    assert not entry.passed
    assert math.isinf(entry.worst_max_abs)
    assert entry.worst_psnr_db == 0
    text = (bundle.path / "certificate.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert math.isinf(open_bundle(bundle.path).certificate().entries[0].worst_max_abs)


def test_a_graph_of_another_network_fails(make_bundle, exported, tmp_path, said):
    bundle = make_bundle("compact-x1", tmp_path, graph=exported("rrdbnet-x2").path)
    (entry,) = verify_model(bundle.path, choices=[BackendChoice("openvino")]).entries
    assert not entry.passed
    assert math.isinf(entry.worst_max_abs)
    assert any("gave 1x3x128x128 for 1x3x64x64 where 1x3x64x64 is due" in line for line in said)


def test_thresholds_decide(verified):
    bundle, _ = verified
    choices = [BackendChoice("onnxruntime", "fp16")]
    (strict,) = verify_model(bundle.path, choices=choices, thresholds={"fp16": Thresholds(psnr_db=200)}).entries
    assert (strict.passed, strict.thresholds) == (False, {"psnr_db": 200})
    (loose,) = verify_model(bundle.path, choices=choices, thresholds={"fp16": Thresholds(max_abs=1.0)}).entries
    assert (loose.passed, loose.thresholds) == (True, {"max_abs": 1.0})


def test_a_choice_replaces_its_own_entry_only(make_bundle, tmp_path):
    bundle = make_bundle("compact-x1", tmp_path)
    verify_model(bundle.path)
    (again,) = verify_model(bundle.path, choices=[BackendChoice("openvino", "fp32")]).entries
    kept = open_bundle(bundle.path).certificate().entries
    assert {entry.backend for entry in kept} == {"onnxruntime:fp32", "openvino:fp32"}
    assert again in kept


def test_a_foreign_graph_is_compared_with_itself_as_it_is_written(exported, tmp_path):
    made = exported("compact-x2-gray")
    path = tmp_path / "foreign.onnx"
    model = onnx.load(made.path)
    del model.metadata_props[:]
    onnx.save(model, path)
    entries = verify_model(path).entries
    assert [entry.backend for entry in entries] == ["onnxruntime:fp32", "openvino:fp32"]
    for entry in entries:
        assert entry.passed
        assert entry.reference == "onnxruntime:fp32, graph as written"
        assert entry.reference_sha256 == entry.artifact.sha256 == sha256_of(path)
    assert [file.name for file in tmp_path.iterdir()] == ["foreign.onnx"]


def test_a_checkpoint_is_verified_in_its_low_precisions(verified):
    bundle, _ = verified
    entries = verify_model(bundle.reference).entries
    assert {entry.backend for entry in entries} == {"torch:fp16", "torch:bf16"}
    figures = {entry.backend: entry.worst_psnr_db for entry in entries}
    assert figures["torch:bf16"] < figures["torch:fp16"] - 10  # 3 bits of mantissa fewer: 18 dB


def test_what_cannot_run_is_an_error_when_asked_for(verified):
    bundle, _ = verified
    with pytest.raises(BackendError, match="needs a graph in int8"):
        verify_model(bundle.path, choices=[BackendChoice("onnxruntime", "int8")])


@pytest.mark.skipif(bool(visible_gpus()), reason="this machine has an NVIDIA GPU")
def test_engines_that_cannot_run_here_are_listed_with_the_reason(make_bundle, tmp_path):
    bundle = make_bundle("compact-x1", tmp_path)
    content = b"an engine"
    (tmp_path / "engine").write_bytes(content)
    record = EngineRecord(
        key="0123456789abcdef",
        graph_sha256=bundle.manifest.graphs[0].sha256,
        precision="fp32",
        backend="tensorrt-rtx",
        backend_version="1.7",
        target="sm86",
        profiles=(parse_profile("tile=1x8x8,1x16x16,1x32x32"),),
        flags={},
        engine=FileRecord(file="engines/0123456789abcdef.engine", sha256=sha256_of(tmp_path / "engine")),
        layer_precisions={},
        inspected="not inspected",
        build_seconds=1.0,
        built_at="2026-01-01",
    )
    bundle.add_engine(record, content)
    model = open_model(bundle.path)
    (missing,) = list_not_run(model)
    assert missing.what == "tensorrt-rtx:fp32 engines/0123456789abcdef.engine (sm86)"
    assert "needs an NVIDIA GPU, and this machine shows none" in missing.reason
    assert list_not_run(model, [BackendChoice("openvino", "fp32")]) == []
    assert all("tensorrt" not in entry.backend for entry in verify_model(model).entries)
    with pytest.raises(InputError, match="holds neither PyTorch weights nor an ONNX graph"):
        verify_model(bundle.path / "engines" / "0123456789abcdef.engine")


def test_a_certificate_that_does_not_hold_fails_until_somebody_accepts_that(make_bundle, tmp_path):
    bundle = make_bundle("compact-x1", tmp_path)
    (bundle.path / "certificate.json").write_text("{")
    choices = [BackendChoice("openvino", "fp32")]
    found = verify_model(bundle.path, choices=choices)
    assert found.failures == ("certificate.json (certificate)",)
    assert "certificate.json is damaged: " in found.checks[0].findings[0]
    assert [entry.backend for entry in open_bundle(bundle.path).certificate().entries] == ["openvino:fp32"]
    again = verify_model(bundle.path, choices=choices)  # what was measured took its place, and that is no excuse
    assert again.failures == found.failures
    assert again.checks[0].findings == found.checks[0].findings
    accepted = verify_model(bundle.path, choices=choices, accept=["certificate.json (certificate)"])
    assert (accepted.failures, accepted.verdict) == ((), "verified")
    assert verify_model(bundle.path, choices=choices).passed
