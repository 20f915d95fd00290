import json

import numpy as np
import onnx
import pytest

from sr_deploy.bundle import CertificateEntry
from sr_deploy.cli import main
from sr_deploy.cli.certificate import describe_margin


@pytest.fixture(scope="module")
def bundle(make_bundle, tmp_path_factory):
    return make_bundle("compact-x1", tmp_path_factory.mktemp("deployments"), fp16=True)


@pytest.fixture(scope="module")
def broken(make_bundle, exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    model = onnx.load(exported("compact-x1").path)
    tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    weights = onnx.numpy_helper.to_array(tensor) * np.float32(1.05)
    tensor.CopyFrom(onnx.numpy_helper.from_array(weights, tensor.name))
    onnx.save(model, folder / "graph.onnx")
    return make_bundle("compact-x1", folder, graph=folder / "graph.onnx")


def test_a_sound_bundle_gives_0_and_a_table(bundle, capsys):
    assert main(["verify", str(bundle.path)]) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith(("│ model.fp", "│ generator.safe"))]
    assert len(rows) == 4
    assert all(" ok " in row for row in rows)
    assert "fp16 figure:" in out
    contents = "photograph, text, checkerboard, saturated, noise, dark, gradient, flat, "
    assert f"inputs: {contents}" in out
    assert " in shapes 1x64x64, " in out
    assert "error budget by stage, fp16, " in out
    assert "5 of 5 checks found nothing wrong" in out
    written = f"written: {bundle.path / 'certificate.json'}, {bundle.path / 'certificate.html'}"
    assert written in out.replace("\n", "")
    assert out.rstrip().endswith("verified")


def test_a_graph_that_falls_short_gives_3_and_is_written_down(broken, capsys):
    assert main(["verify", str(broken.path), "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] is False
    assert [entry["passed"] for entry in document["entries"]] == [False, False]
    certificate = json.loads((broken.path / "certificate.json").read_text())
    assert certificate["entries"] == document["entries"]
    assert main(["verify", str(broken.path)]) == 3
    out = capsys.readouterr().out
    assert "NOT verified: model.fp32.onnx on onnxruntime:fp32, model.fp32.onnx on openvino:fp32" in out
    assert "WRONG: model.fp32.onnx (weights): tensor 'body." in out


def test_the_margin_is_the_smallest_distance_to_a_threshold(bundle, capsys):
    assert main(["verify", str(bundle.path), "--backend", "onnxruntime:fp16", "--json"]) == 0
    entry = CertificateEntry.model_validate(json.loads(capsys.readouterr().out)["entries"][0])

    def with_figures(*figures):
        measurements = [
            entry.measurements[0].model_copy(update={"max_abs": max_abs, "psnr_db": psnr_db})
            for max_abs, psnr_db in figures
        ]
        return entry.model_copy(
            update={"thresholds": {"max_abs": 0.01, "psnr_db": 50.0}, "measurements": tuple(measurements)}
        )

    assert describe_margin(with_figures((0.001, 75.0), (0.0, None))) == "+20.0 dB"
    assert describe_margin(with_figures((0.001, 75.0), (0.001, 48.5))) == "-1.5 dB"
    assert describe_margin(with_figures((0.001, 75.0), (float("inf"), 0.0))) == "-inf dB"
    assert describe_margin(with_figures((0.0, None))) == ""


def test_backends_can_be_named(bundle, capsys):
    words = ["verify", str(bundle.path), "--backend", "openvino", "--backend", "torch:fp16", "--json"]
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert [entry["backend"] for entry in document["entries"]] == ["openvino:fp32", "torch:fp16"]


def test_left_to_itself_it_takes_the_newest_bundle(make_bundle, tmp_path, monkeypatch, capsys):
    (tmp_path / "deployments").mkdir()
    make_bundle("compact-x2-gray", tmp_path / "deployments")
    make_bundle("compact-x1", tmp_path / "deployments")
    monkeypatch.chdir(tmp_path)
    assert main(["verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "deployments/compact-x1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["verify"], "no bundle in deployments; make one with: sr-deploy export"),
        (["verify", "nothing.onnx"], "nothing.onnx does not exist"),
        (["verify", "--backend", "tensorflow"], "unknown backend 'tensorflow'; known: torch,"),
    ],
)
def test_mistakes_are_one_line_and_1(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
