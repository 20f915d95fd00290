"""Three verdicts, and what turns one into another: who ran what, whose findings stand, who accepted them."""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
import sys

import pytest

from sr_deploy.backends import builders
from sr_deploy.bundle import EngineRecord, FileRecord, Thresholds, open_bundle
from sr_deploy.cli import main
from sr_deploy.errors import InputError
from sr_deploy.gpus import visible_gpus
from sr_deploy.model import open_model
from sr_deploy.shipped import shipped_models
from sr_deploy.verification.judging import judge_bundle
from sr_deploy.verification.verify import verify_model
from tests.unit.certificates import edit_certificate

needs_rtx = pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")
no_gpu = pytest.mark.skipif(bool(visible_gpus()), reason="this machine has an NVIDIA GPU")
FOREIGN = "NVIDIA GeForce RTX 4090"


@pytest.fixture(scope="module")
def sound(make_bundle, tmp_path_factory):
    bundle = make_bundle("compact-x1", tmp_path_factory.mktemp("sound"), fp16=True)
    verify_model(bundle.path)
    return bundle


@pytest.fixture
def bundle(sound, tmp_path):
    shutil.copytree(sound.path, tmp_path / "bundle")
    return open_bundle(tmp_path / "bundle")


@pytest.fixture
def without_backends(monkeypatch):
    """Python's own mark of what cannot be imported: nothing finds these two, and nothing imports them."""
    for module in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, module, None)


def verify(bundle, *words, code):
    assert main(["verify", str(bundle.path), *words]) == code


def read_page(bundle):
    page = (bundle.path / "certificate.html").read_text()
    bare = re.sub(r"<style.*?</style>|<script.*?</script>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", bare)).split())


def read_info(bundle, capsys):
    capsys.readouterr()
    assert main(["info", str(bundle.path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["certificate"]


def add_foreign(bundle, *, passed):
    """An entry of the FP16 graph that a machine elsewhere measured."""

    def change(document):
        entry = next(one for one in document["entries"] if one["backend"] == "onnxruntime:fp16")
        copy = json.loads(json.dumps(entry)) | {"machine": FOREIGN, "cpu_features": []}
        if not passed:
            for one in copy["measurements"]:
                one |= {"psnr_db": 21.5, "max_abs": 0.5}
            copy |= {"worst_psnr_db": 21.5, "worst_max_abs": 0.5, "passed": False}
        document["entries"].append(copy)

    edit_certificate(bundle, change)


# --- what did not run ---


def test_graphs_that_no_backend_ran_are_not_verified(bundle, without_backends, capsys):
    verify(bundle, code=4)
    said = capsys.readouterr().out
    assert said.splitlines()[-1].startswith("incomplete: no backend ran model.fp32.onnx, model.fp16.onnx; not run: ")
    assert "torch:fp16" in said  # which ran, and says nothing of the graphs
    verify(bundle, "--strict", code=3)
    capsys.readouterr()
    verify(bundle, "--json", code=4)
    document = json.loads(capsys.readouterr().out)
    assert (document["verdict"], document["passed"], document["failures"]) == ("incomplete", False, [])
    assert read_page(bundle).startswith("Certificate: bundle bundle incomplete: no backend ran model.fp32.onnx")
    facts = read_info(bundle, capsys)
    assert facts["verdict"] == "incomplete"
    assert facts["verdict_text"].startswith("incomplete: no backend ran model.fp32.onnx, model.fp16.onnx")
    assert json.loads((bundle.path / "certificate.json").read_text())["last"]["verdict"] == "incomplete"


def test_a_bundle_of_which_nothing_runs_at_all_is_incomplete_too(make_bundle, tmp_path, without_backends, capsys):
    bundle = make_bundle("compact-x1", tmp_path)
    verify(bundle, code=4)
    assert "incomplete: no backend ran model.fp32.onnx" in capsys.readouterr().out
    assert "Nothing was run yet." in read_page(bundle)


def test_one_backend_is_enough_and_the_absent_one_is_named(bundle, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "openvino", None)
    verify(bundle, code=0)
    assert capsys.readouterr().out.splitlines()[-1] == "verified: graphs; not run: openvino:fp32"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "openvino")
    verify(bundle, code=4)  # OpenVINO has no FP16: nothing runs that graph
    assert "incomplete: no backend ran model.fp16.onnx; not run: " in capsys.readouterr().out


def test_a_choice_narrows_the_verdict_and_says_so(bundle, capsys):
    verify(bundle, "--backend", "openvino", code=0)
    said = "verified: model.fp32.onnx; not run: model.fp16.onnx"
    assert capsys.readouterr().out.splitlines()[-1] == said
    assert read_info(bundle, capsys)["verdict_text"] == said
    verify(bundle, "--backend", "torch:fp16", code=4)
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == "incomplete: no backend ran model.fp32.onnx, model.fp16.onnx"
    assert read_info(bundle, capsys)["verdict"] == "incomplete"


def test_an_export_without_backends_is_incomplete(write_gentle_network, tmp_path, without_backends, capsys):
    checkpoint = write_gentle_network(tmp_path / "net.safetensors", 8, 1)
    words = ["export", str(checkpoint), "--backend", "none", "--out", str(tmp_path / "b"), "--json"]
    stated = ["--license", "BSD-3-Clause \n of someone", "--author", "Ann", "--source", "https://example.org/net"]
    assert main([*words, *stated]) == 4
    document = json.loads(capsys.readouterr().out)
    assert (document["verdict"], document["passed"]) == ("incomplete", False)
    attribution = {"license": "BSD-3-Clause of someone", "author": "Ann", "source": "https://example.org/net"}
    assert open_bundle(tmp_path / "b").manifest.source.attribution.stated == attribution
    page = read_page(open_bundle(tmp_path / "b"))
    assert "its license BSD-3-Clause of someone its author Ann its source https://example.org/net" in page
    # The weights say it too, wherever they go; who exports them again has the last word.
    weights = open_model(open_bundle(tmp_path / "b").reference)
    assert weights.attribution.stated == attribution
    assert (
        main(["export", str(weights.path), "--backend", "none", "--out", str(tmp_path / "c"), "--author", "Bob"]) == 4
    )
    assert open_bundle(tmp_path / "c").manifest.source.attribution.stated == {**attribution, "author": "Bob"}
    capsys.readouterr()
    assert main(["info", str(tmp_path / "c"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["attribution"] == {**attribution, "author": "Bob"}


@no_gpu
@needs_rtx
def test_engines_are_named_at_once_and_never_covered_by_a_bare_word(bundle, capsys):
    words = ["build", str(bundle.path), "--backend", "tensorrt-rtx", "--compute-capability", "sm89"]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["verdict"], document["verdict_text"]) == ("verified", "verified: graphs; not run: 2 engines")
    engines = [record.engine.file for record in open_bundle(bundle.path).engines()]
    assert len(engines) == 2
    last = open_bundle(bundle.path).certificate().last
    assert [one.file for one in last.not_run] == engines
    page = read_page(bundle)
    assert "bundle verified: graphs not run: 2 engines" in page
    assert all(f"not run {file}" in page for file in engines)
    assert read_info(bundle, capsys)["verdict_text"] == "verified: graphs; not run: 2 engines"
    verify(bundle, code=0)
    assert capsys.readouterr().out.splitlines()[-1] == "verified: graphs; not run: 2 engines"
    page = (bundle.path / "certificate.html").read_bytes()
    assert main(words) == 0  # both still hold: there is nothing new to name
    assert capsys.readouterr().out.splitlines()[-1] == "verified: graphs; not run: 2 engines"
    assert (bundle.path / "certificate.html").read_bytes() == page


def test_what_was_said_of_an_engine_goes_when_another_takes_its_place(bundle):
    """As when a damaged one is built anew, under the same key."""
    record = EngineRecord(
        key="0123456789abcdef", graph_sha256=bundle.manifest.graphs[0].sha256, precision="fp32", backend="tensorrt-rtx",
        backend_version="1.7", target="sm89", profiles=bundle.manifest.profiles, flags={}, layer_precisions={},
        engine=FileRecord(file="engines/0123456789abcdef.engine", sha256=hashlib.sha256(b"old").hexdigest()),
        inspected="", build_seconds=1.0, built_at="2026-01-01T00:00:00",
    )  # fmt: skip
    bundle.add_engine(record, b"old")
    failed = next(one for one in bundle.certificate().entries if one.backend == "onnxruntime:fp32").model_copy(
        update={"artifact": record.engine, "backend": "tensorrt-rtx:fp32", "machine": FOREIGN, "passed": False}
    )
    bundle.write_certificate(bundle.certificate().with_entry(failed))
    assert judge_bundle(bundle)[1].verdict == "failed"
    fresh = FileRecord(file=record.engine.file, sha256=hashlib.sha256(b"new").hexdigest())
    bundle.add_engine(record.model_copy(update={"engine": fresh}), b"new")
    assert judge_bundle(bundle)[1].describe() == "verified: graphs; not run: 1 engine"


# --- whose findings stand ---


def test_what_another_machine_measured_is_shown_and_what_failed_there_fails(bundle, capsys):
    add_foreign(bundle, passed=True)
    verify(bundle, code=0)
    assert f"measured before: model.fp16.onnx on onnxruntime:fp16 ({FOREIGN}): ok" in capsys.readouterr().out
    assert f"{FOREIGN}, " in read_page(bundle)


def test_a_failure_elsewhere_stands_until_it_is_accepted_by_name(bundle, capsys):
    add_foreign(bundle, passed=False)
    name = f"model.fp16.onnx on onnxruntime:fp16 ({FOREIGN})"
    for _ in range(2):  # the second run says the same
        verify(bundle, "--json", code=3)
        document = json.loads(capsys.readouterr().out)
        assert (document["verdict"], document["failures"]) == ("failed", [name])
        assert document["findings"][0]["lines"] == ["22 dB, greatest difference 5e-01; needs 55 dB, at most 5e-02"]
        assert f"bundle NOT verified compact x1, 1 blocks, 8 features, RGB {name}" in read_page(bundle)
    assert read_info(bundle, capsys)["verdict_text"] == f"NOT verified: {name}"
    verify(bundle, "--accept", "model.fp16.onnx on onnxruntime:fp16", code=1)
    assert f"is no finding here; findings: '{name}'" in capsys.readouterr().err
    verify(bundle, "--accept", name, code=0)
    assert capsys.readouterr().out.splitlines()[-1] == f"verified: graphs; accepted: {name}"
    verify(bundle, "--json", code=0)
    (accepted,) = json.loads(capsys.readouterr().out)["accepted"]
    assert (accepted["name"], accepted["by"].split(" on ")[0] != "") == (name, True)
    assert f"{name}, accepted by {accepted['by']} on {accepted['accepted_at'][:10]}" in read_page(bundle)


def test_an_acceptance_counts_for_who_gave_it(bundle, monkeypatch, tmp_path, capsys):
    """Whoever makes a bundle writes its certificate: what is accepted there is his own affair."""
    add_foreign(bundle, passed=False)
    verify(bundle, "--accept", "model.fp16.onnx", code=0)
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path / "another user"))
    capsys.readouterr()
    verify(bundle, code=3)
    assert "which counts for that user alone" in capsys.readouterr().out
    assert "which counts for that user alone" in read_page(bundle)


def test_an_accepted_finding_that_becomes_another_is_not_accepted(bundle):
    add_foreign(bundle, passed=False)
    verify(bundle, "--accept", "model.fp16.onnx", code=0)

    def worsen(document):
        entry = next(one for one in document["entries"] if one["machine"] == FOREIGN)
        for one in entry["measurements"]:
            one["psnr_db"] = 9.0
        entry["worst_psnr_db"] = 9.0

    edit_certificate(bundle, worsen)
    verify(bundle, code=3)


def test_a_failure_measured_here_is_not_gone_because_its_backend_is(bundle, monkeypatch, capsys):
    def fail(document):
        entry = next(one for one in document["entries"] if one["backend"] == "openvino:fp32")
        entry["measurements"][0] |= {"psnr_db": 30.0, "max_abs": 0.1}
        entry |= {"worst_psnr_db": 30.0, "worst_max_abs": 0.1, "passed": False}

    edit_certificate(bundle, fail)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "openvino", None)
        verify(bundle, code=3)
        assert "NOT verified: model.fp32.onnx on openvino:fp32" in capsys.readouterr().out
    verify(bundle, code=0)  # run again and found to be right: its cause is gone


# --- thresholds ---


def test_thresholds_looser_than_the_defaults_are_said_everywhere(bundle, capsys):
    path = bundle.path / "bundle.json"
    manifest = json.loads(path.read_text())
    manifest["thresholds"] = {"fp16": {"psnr_db": 10.0, "max_abs": 0.05}, "fp32": {"max_abs": 1e-5}}
    path.write_text(json.dumps(manifest))
    (bundle.path / "certificate.json").unlink()
    verify(bundle, code=0)
    said = [line.removeprefix("looser than the default: ") for line in capsys.readouterr().out.splitlines()]
    lines = ["fp32 needs no PSNR, the default is 100 dB", "fp16 needs 10 dB, the default is 55 dB"]
    assert all(line in said for line in lines)
    assert said[-1] == f"verified: graphs; looser than the defaults: {'; '.join(lines)}"
    verify(bundle, "--json", code=0)
    assert json.loads(capsys.readouterr().out)["thresholds_looser_than_default"] == lines
    assert lines[1] in read_page(bundle)
    assert lines[1] in read_info(bundle, capsys)["verdict_text"]


def test_thresholds_of_the_caller_are_said_and_leave_the_certificate_alone(bundle):
    before = (bundle.path / "certificate.json").read_bytes()
    loose = verify_model(bundle.path, thresholds={"fp16": Thresholds(psnr_db=10.0, max_abs=0.05)})
    assert loose.judgment.describe() == (
        "verified: graphs; looser than the defaults: fp16 needs 10 dB, the default is 55 dB"
    )
    assert loose.written == ()
    assert (bundle.path / "certificate.json").read_bytes() == before


def test_nothing_is_accepted_where_nothing_is_written(bundle):
    with pytest.raises(InputError, match="nothing can be accepted; copy it first"):
        verify_model(shipped_models()["small-x2"], accept=["certificate.json"])
    with pytest.raises(InputError, match="are of bundles"):
        verify_model(bundle.graph("fp32"), accept=["certificate.json"])


def test_certificates_of_before_are_still_judged(bundle, capsys):
    def forget(document):
        for name in ("last", "accepted"):
            del document[name]

    edit_certificate(bundle, forget)
    assert read_info(bundle, capsys)["verdict"] == "verified"
    edit_certificate(bundle, lambda document: document.update(entries=document["entries"][:1]))
    assert read_info(bundle, capsys)["verdict_text"] == "incomplete: no backend ran model.fp16.onnx"
