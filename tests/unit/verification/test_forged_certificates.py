"""Certificates that somebody edited: each says more for the bundle than was measured, and all of them are found out."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from sr_deploy.bundle import open_bundle
from sr_deploy.cli import main
from sr_deploy.cli.certificate_facts import describe_certificate
from sr_deploy.verification.standing import read_standing
from sr_deploy.verification.verify import verify_model
from tests.unit.certificates import edit_certificate

ELSEWHERE = {"machine": "NVIDIA GeForce RTX 4090", "cpu_features": []}


@pytest.fixture(scope="module", params=["compact-x2-gray", "rrdbnet-x4"])
def sound(request, make_bundle, tmp_path_factory):
    bundle = make_bundle(request.param, tmp_path_factory.mktemp("sound"), fp16=True)
    path = bundle.path / "bundle.json"
    manifest = json.loads(path.read_text())
    manifest["thresholds"] = {"fp32": {"psnr_db": 100.0, "max_abs": 1e-5}, "fp16": {"psnr_db": 55.0, "max_abs": 0.05}}
    path.write_text(json.dumps(manifest))
    verify_model(bundle.path)
    return open_bundle(bundle.path)


@pytest.fixture
def bundle(sound, tmp_path):
    shutil.copytree(sound.path, tmp_path / "bundle")
    return open_bundle(tmp_path / "bundle")


def entry_of(document, backend="onnxruntime:fp16"):
    return next(one for one in document["entries"] if one["backend"] == backend)


def set_figures(entry, **figures):
    entry["measurements"] = [one | figures for one in entry["measurements"]]
    entry |= {f"worst_{name}": value for name, value in figures.items() if name in ("psnr_db", "max_abs")}


def bad_figures_passed(document):
    set_figures(entry_of(document), psnr_db=20.0, max_abs=0.5)


def one_bad_figure_hidden(document):
    entry_of(document)["measurements"][3] |= {"psnr_db": 20.0, "max_abs": 0.5}


def worst_figures_beautified(document):
    entry_of(document).update({"worst_psnr_db": 140.0})


def thresholds_loosened(document):
    entry = entry_of(document)
    set_figures(entry, psnr_db=20.0, max_abs=0.5)
    entry["thresholds"] = {"psnr_db": 10.0, "max_abs": 1.0}


def thresholds_removed(document):
    entry_of(document)["thresholds"] = {}


def rounding_invented(document):
    entry = entry_of(document)
    set_figures(entry, psnr_db=21.5, max_abs=0.09)
    entry["thresholds"] = {"psnr_db": 15.0, "max_abs": 0.55, "rounding": 0.5}


def no_figures(document):
    entry_of(document).update({"measurements": [], "worst_psnr_db": None, "worst_max_abs": 0.0})


def judged_on_flat_alone(document):
    entry = entry_of(document)
    set_figures(entry, psnr_db=20.0, max_abs=0.5)
    for one in entry["measurements"]:
        if one["content"] == "flat":
            one.update(psnr_db=70.0, max_abs=0.001)
    entry |= {"judged": ["flat"], "worst_psnr_db": 70.0, "worst_max_abs": 0.001}


def labeled_int8(document):
    """Whose thresholds are the loosest."""
    entry = entry_of(document, "onnxruntime:fp32")
    set_figures(entry, psnr_db=36.0, max_abs=0.5)
    entry |= {"precision": "int8", "backend": "onnxruntime:int8", "thresholds": {"psnr_db": 35.0}}


def weights_in_place_of_the_graph(document):
    """PyTorch's own entry, said to be of the graph."""
    entry = entry_of(document, "torch:fp16")
    entry["artifact"] = entry_of(document)["artifact"]
    document["entries"].remove(entry_of(document))


def graph_in_place_of_another(document):
    entry_of(document)["artifact"] = entry_of(document, "onnxruntime:fp32")["artifact"]


def another_graph(document):
    entry_of(document)["artifact"]["sha256"] = "0" * 64


def other_weights(document):
    entry_of(document)["reference_sha256"] = "0" * 64


def compared_with_itself(document):
    entry_of(document)["reference"] = "onnxruntime:fp16"


def failed_one_beside_a_passed_one(document):
    copy = json.loads(json.dumps(entry_of(document)))
    set_figures(copy, psnr_db=20.0, max_abs=0.5)
    document["entries"].insert(0, copy | {"passed": False})


def twice(document):
    document["entries"].append(json.loads(json.dumps(entry_of(document))))


def nan_figures(document):
    set_figures(entry_of(document), psnr_db="NaN")


def negative_difference(document):
    set_figures(entry_of(document), max_abs=-1.0)


def equal_outputs_that_differ(document):
    set_figures(entry_of(document), psnr_db=None, max_abs=0.0)


def a_small_difference_with_a_low_psnr(document):
    set_figures(entry_of(document), psnr_db=56.0, max_abs=1e-6)


def a_file_that_nothing_runs(document):
    entry_of(document)["artifact"] = entry_of(document, "torch:fp16")["artifact"]


def a_check_of_another_file(document):
    document["checks"][1]["sha256"] = "0" * 64


def an_engine_entry_of_a_graph(document):
    entry = json.loads(json.dumps(entry_of(document)))
    document["entries"].append(entry | ELSEWHERE | {"backend": "tensorrt-rtx:fp32"})


def a_error_budget_without_losses(document):
    document["error_budgets"][1]["stages"][1]["lost_db"] = "NaN"


FORGERIES = {
    bad_figures_passed: "says that it passed, and its figures miss its thresholds",
    one_bad_figure_hidden: "says that it passed, and its figures miss its thresholds",
    worst_figures_beautified: "names 140.0 as its worst_psnr_db, and its measurements make",
    thresholds_loosened: "needed 10 dB, and this bundle needs 55 dB|allowed a greatest difference of 1, and this",
    thresholds_removed: "allowed a greatest difference of inf, and this bundle allows 0.05",
    rounding_invented: "allows 0.5 for rounding by the I/O type, which rounds by 0 at most",
    no_figures: "measured nothing",
    judged_on_flat_alone: "is judged on flat alone, where every content counts",
    labeled_int8: "is of precision int8, and what onnxruntime:int8 runs there is fp32",
    weights_in_place_of_the_graph: r"on torch:fp16 \(.*\) is of a file that its backend does not run",
    graph_in_place_of_another: "is of precision fp16, and what onnxruntime:fp16 runs there is fp32",
    another_graph: "was changed after it was recorded",
    other_weights: "was measured against other weights than this bundle's",
    compared_with_itself: "was compared with onnxruntime:fp16, where torch:fp64 is due",
    failed_one_beside_a_passed_one: "2 entries of model.fp16.onnx on onnxruntime:fp16",
    twice: "2 entries of model.fp16.onnx on onnxruntime:fp16",
    nan_figures: r"is damaged: entries\.\d",
    negative_difference: r"is damaged: entries\.\d",
    equal_outputs_that_differ: r"equal outputs, and .* of the samples differ",
    a_small_difference_with_a_low_psnr: "with a greatest difference of 1e-06, which makes 120.0 at least",
    a_file_that_nothing_runs: "is of a file that its backend does not run",
    a_check_of_another_file: "was changed after it was recorded",
    a_error_budget_without_losses: r"is damaged: error_budgets\.1\.stages\.1\.lost_db",
    an_engine_entry_of_a_graph: "is of precision fp16, and what tensorrt-rtx:fp32 runs there|its backend does not run",
}


def test_a_sound_certificate_has_nothing_wrong(bundle):
    certificate, check = read_standing(bundle)
    assert check.findings == ()
    assert certificate == bundle.stated_certificate()
    assert describe_certificate(bundle).verdict == "verified"


@pytest.mark.parametrize(("forge", "message"), FORGERIES.items(), ids=[one.__name__ for one in FORGERIES])
def test_forgeries_are_found_and_named(bundle, forge, message):
    edit_certificate(bundle, forge)
    certificate, check = read_standing(bundle)
    assert len(check.findings) == 1
    assert re.search(message, check.findings[0])
    assert not any(entry.sound for entry in certificate.entries)
    facts = describe_certificate(bundle)
    # What only the graphs can tell is for `verify` to find.
    assert facts.verdict == "failed" or forge is rounding_invented


@pytest.mark.parametrize("forge", [bad_figures_passed, nan_figures])
def test_a_forgery_fails_now_and_the_next_time_until_it_is_accepted(bundle, forge, capsys):
    edit_certificate(bundle, forge)
    words = ["verify", str(bundle.path), "--backend", "onnxruntime:fp16", "--json"]
    said = []
    for _ in range(2):
        assert main(words) == 3
        document = json.loads(capsys.readouterr().out)
        assert document["failures"][-1] == "certificate.json (certificate)"
        said.append(document["findings"][-1]["lines"])
    assert said[0] == said[1]
    assert main([*words, "--accept", "certificate.json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict_text"].endswith("accepted: certificate.json (certificate)")


def test_a_failure_survives_a_certificate_that_does_not_hold(bundle, capsys):
    """Who makes a certificate worthless does not get rid of what it says against the bundle."""

    def forge(document):
        copy = json.loads(json.dumps(entry_of(document))) | ELSEWHERE
        set_figures(copy, psnr_db=20.0, max_abs=0.5)
        document["entries"].append(copy | {"passed": False})
        other_weights(document)

    edit_certificate(bundle, forge)
    words = ["verify", str(bundle.path), "--backend", "onnxruntime:fp16", "--accept", "certificate.json", "--json"]
    assert main(words) == 3
    assert json.loads(capsys.readouterr().out)["failures"] == [
        "model.fp16.onnx on onnxruntime:fp16 (NVIDIA GeForce RTX 4090)"
    ]


def test_a_certificate_of_a_newer_version_is_left_alone(bundle, capsys):
    """This one would lose what it does not know."""
    edit_certificate(bundle, lambda document: document.update(schema_version=2))
    before = (bundle.path / "certificate.json").read_bytes()
    assert main(["verify", str(bundle.path), "--backend", "onnxruntime:fp16"]) == 3
    assert "certificate.json has schema version 2; this sr-deploy reads version 1" in capsys.readouterr().err
    assert (bundle.path / "certificate.json").read_bytes() == before
