from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.bundle import open_bundle
from sr_deploy.cli import main
from sr_deploy.errors import BundleError
from sr_deploy.export.int8 import formats
from sr_deploy.files import sha256_of
from sr_deploy.graph.read import describe_graph_cost
from sr_deploy.imaging.codec import bundled_photographs, read_training_image, write_image
from sr_deploy.model import open_model
from sr_deploy.upscale.backend import choose_backend
from sr_deploy.verification.bisect import bisect_model

ARCH = ArchSpec(architecture="compact", scale=2, features=8, blocks=2)
# Random weights agree less with PyTorch than trained ones; what is looked at here is the budget.
SPEC = """
profiles = ["tile=1x16x16,1x32x32,1x64x64"]
rewrite = false
[engine]
backend = "none"
[thresholds.int8]
psnr_db = 5.0
[int8]
crops = 12
crop_size = 24
search_crops = 1
gate_crops = 2
curve_points = 2
learn_steps = 2
learn_size = 16
max_pixel_error = {limit}
"""


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], write_network):
    """Runs `sr-deploy export --int8` on a little network and gives exit code, stdout and stderr."""
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path / "cache"))
    checkpoint = write_network(tmp_path / "little.safetensors", ARCH)

    def run(limit: float, *options: str, thresholds: str = "") -> tuple[int, str, str]:
        spec = tmp_path / "spec.toml"
        spec.write_text(SPEC.format(limit=limit) + thresholds)
        fixed = ["export", str(checkpoint), "--spec", str(spec), "--out", str(tmp_path / "bundle")]
        code = main([*fixed, *options])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    for name, path in list(bundled_photographs().items())[:4]:
        write_image(folder / f"{name}.png", read_training_image(path)[:160, :160])
    return folder


def test_a_bundle_with_int8(export, photographs, tmp_path):
    options = ("--int8", "--calibration", str(photographs), "--max-drop-db", "20", "--calibration-method", "mse")
    code, out, err = export(1.0, *options, "--per-tensor", "--json")
    assert code == 0, err
    document = json.loads(out)
    bundle = open_bundle(tmp_path / "bundle")
    search = bundle.manifest.int8
    assert search is not None
    assert (search.max_drop_db, search.passed, bundle.precisions) == (20.0, True, ("fp32", "int8"))
    assert document["manifest"]["int8"]["share"] == search.share == bundle.manifest.graph("int8").int8_share
    report = json.loads((bundle.path / "int8.json").read_text())
    assert (report["options"]["method"], report["options"]["per_channel"]) == ("mse", False)
    assert report["photographs"] == "photographs (4)"
    assert {"onnxruntime:int8"} <= {entry["backend"] for entry in document["certificate"]}
    assert any(factor != 1 for factors in report["equalized"].values() for factor in factors)
    (found,) = [one for one in bisect_model(open_model(bundle.path)) if one.file == "model.int8.onnx"]
    assert (found.culprit, found.mismatch) == (None, None)  # against the graph whose channels were evened out alike
    (bundle.path / "int8.json").write_text(json.dumps(report | {"share": 0.99}))
    with pytest.raises(BundleError, match=r"int8\.json"):
        open_bundle(bundle.path)


FP8 = """
[thresholds.fp8]
psnr_db = 5.0
[fp8]
crops = 4
crop_size = 24
search_crops = 1
gate_crops = 2
curve_points = 1
learn_steps = 2
learn_size = 16
max_pixel_error = 1.0
"""


def test_a_bundle_with_fp8(export, photographs, tmp_path, capsys):
    options = ("--fp8", "--calibration", str(photographs), "--max-drop-db", "20")
    code, out, err = export(1.0, *options, "--json", thresholds=FP8)
    assert code == 0, err
    document = json.loads(out)
    bundle = open_bundle(tmp_path / "bundle")
    manifest = bundle.manifest
    search = manifest.fp8
    assert search is not None
    assert (search.max_drop_db, search.passed, bundle.precisions) == (20.0, True, ("fp32", "fp8"))
    assert (manifest.int8, manifest.graph("fp8").int8_share, search.report.file) == (None, None, "fp8.json")
    assert {file.file for file in manifest.files} >= {"model.fp8.onnx", "fp8.json"}
    assert describe_graph_cost(bundle.graph("fp8")).precision_share["fp8"] == pytest.approx(search.share)
    entries = {entry["backend"]: entry for entry in document["certificate"]}
    assert entries["onnxruntime:fp8"]["precision"] == "fp8"
    checks = {check["kind"] for check in document["checks"] if check["file"] == "model.fp8.onnx"}
    assert checks == {"precision", "weights", "calibration", "drop"}
    # One number of one weight, three of FP8's numbers off, with the hash of the file entered: found by the audit.
    model = onnx.load(bundle.graph("fp8"))
    tensor = next(one for one in model.graph.initializer if one.name.endswith("weight.fp8"))
    values = onnx.numpy_helper.to_array(tensor)
    place = np.zeros(values.shape, np.int8)
    place[1, 2, 0, 0] = 3 if values[1, 2, 0, 0] < 0 else -3
    tensor.CopyFrom(onnx.numpy_helper.from_array(formats.FP8.move(values, place), tensor.name))
    onnx.save(model, bundle.graph("fp8"))
    document = json.loads((bundle.path / "bundle.json").read_text())
    next(one for one in document["graphs"] if one["precision"] == "fp8")["sha256"] = sha256_of(bundle.graph("fp8"))
    (bundle.path / "bundle.json").write_text(json.dumps(document))
    assert main(["verify", str(bundle.path)]) == 3
    assert "values differ beyond rounding, most at (1, 2, 0, 0)" in " ".join(capsys.readouterr().out.split())


def test_what_does_not_meet_the_budget_is_refused_or_kept_by_force(export, tmp_path):
    code, _, err = export(1e-7, "--int8")
    assert code == 3
    assert "INT8 does not meet its budget (0.05 dB lost, 1e-07 for the worst visible error)" in err
    assert "% of the multiply-adds in INT8" in err
    assert not (tmp_path / "bundle").exists()
    code, out, err = export(1e-7, "--int8", "--force")
    assert code == 3
    assert "NOT within its budget, kept with --force" in out
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.manifest.int8 is not None
    assert not bundle.manifest.int8.passed
    assert main(["verify", str(bundle.path)]) == 3


@pytest.mark.slow
def test_a_budget_without_a_precision_names_what_is_fastest_within_it(export, tmp_path):
    code, out, err = export(1.0, "--max-drop-db", "20", "--json")
    assert code == 0, err
    document = json.loads(out)
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.precisions == ("fp32", "fp16", "bf16", "int8")
    assert bundle.manifest.int8 is not None
    assert bundle.manifest.int8.max_drop_db == 20
    assert {name: asked.max_drop_db for name, asked in bundle.manifest.thresholds.items() if name != "int8"} == {
        "fp16": 20,
        "bf16": 20,
    }
    drops = {check["file"] for check in document["checks"] if check["kind"] == "drop" and "budget" in check["what"]}
    assert drops == {"model.fp16.onnx", "model.bf16.onnx"}
    choice = document["choice"]
    assert set(choice["milliseconds"]) >= {"torch:fp32", "onnxruntime:fp32", "onnxruntime:int8"}
    assert choice["milliseconds"][choice["backend"]] <= 1.04 * min(choice["milliseconds"].values())
    assert choice["left_out"] == {}
    assert str(choose_backend(open_model(bundle.path), "auto")) == choice["backend"]
    lost = {"fp32": 0.0, "int8": bundle.manifest.int8.drop_db}
    assert choice["drop_db"] == lost.get(choice["backend"].partition(":")[2], choice["drop_db"])


@pytest.mark.slow
def test_what_loses_more_than_the_budget_is_left_out_and_said(export, tmp_path):
    code, out, err = export(1e-7, "--max-drop-db", "20", thresholds="[thresholds.bf16]\npsnr_db = 120.0")
    assert code == 0, err
    assert open_bundle(tmp_path / "bundle").precisions == ("fp32", "fp16")
    said = " ".join(out.split())
    assert "left out: int8: INT8 does not meet its budget (20 dB lost, 1e-07 for the worst visible error)" in said
    assert re.search(r"left out: bf16: .* needs 120 dB", said)
    assert re.search(r"what --backend auto takes: (torch|onnxruntime|openvino):fp32, 0\.000 dB lost", said)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--calibration", "photographs"), "--calibration is for FP16, INT8 and FP8, and none is asked for"),
        (("--int8", "--calibration-method", "entropy"), "takes max, mse, percentile, not 'entropy'"),
        (("--int8", "--calibration", "gone"), "gone does not exist"),
        (("--fp16", "--max-drop-db", "0.1"), "the budget of INT8 and FP8, and fp32, fp16 is asked for; add --int8 or"),
        (("--max-drop-db", "0.1", "--force"), "--force keeps an INT8 or FP8 graph that loses too much; without"),
    ],
)
def test_options_that_make_no_sense(export, options, message):
    code, _, err = export(1.0, *options)
    assert code == 1
    assert message in err
    assert "export the fp32 graph" not in err  # said before anything takes long
