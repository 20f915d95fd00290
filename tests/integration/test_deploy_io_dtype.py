"""Deployments whose graphs take and give other types, through the normal commands."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import pytest

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.backends import builders
from sr_deploy.bundle import open_bundle
from sr_deploy.cli import main
from sr_deploy.imaging.codec import bundled_photographs, read_image, write_image
from sr_deploy.model import open_model
from sr_deploy.runners import open_runner
from sr_deploy.verification.verify import verify_model

SPEC = ArchSpec(architecture="compact", scale=2, features=8, blocks=1)
PROFILE = "tile=1x16x16,1x32x32,1x64x64"


@pytest.fixture(scope="module")
def export(write_network):
    def run(folder, io_dtype, *, backend="none", name="bundle", arch=SPEC):
        checkpoint, spec = write_network(folder / f"{name}.safetensors", arch, seed=1), folder / f"{name}.toml"
        spec.write_text(f'io_dtype = "{io_dtype}"\nprecisions = ["fp16"]\nprofiles = ["{PROFILE}"]\n')
        words = ["export", str(checkpoint), "--spec", str(spec), "--out", str(folder / name)]
        assert main([*words, "--backend", backend]) == 0
        return folder / name

    return run


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, export):
    folder = tmp_path_factory.mktemp("io_dtype")
    return {io_dtype: export(folder, io_dtype, name=io_dtype) for io_dtype in ("fp32", "fp16", "uint8", "uint16")}


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "small.png"
    image = read_image(bundled_photographs()["astronaut"])
    write_image(path, np.ascontiguousarray(image[100:160, 200:280]))
    return path


@pytest.mark.parametrize(
    ("io_dtype", "step"), [("fp16", 2.0**-11), ("uint8", 0.5 / 255), ("uint16", 0.5 / 65535)], ids=str
)
def test_the_certificate_allows_for_the_rounding_of_the_io_dtype_and_no_more(bundles, io_dtype, step):
    entries = {entry.backend: entry for entry in open_bundle(bundles[io_dtype]).certificate().entries}
    assert set(entries) == {"onnxruntime:fp32", "openvino:fp32", "onnxruntime:fp16", "torch:fp16"}
    for backend in ("onnxruntime:fp32", "openvino:fp32"):
        entry = entries[backend]
        assert entry.passed
        assert entry.thresholds["rounding"] == step
        assert entry.thresholds["max_abs"] == 1e-5 + step
        assert entry.thresholds["psnr_db"] == pytest.approx(-20 * math.log10(1e-5 + step))
        if io_dtype != "fp16":  # FP16 rounds finer below 1
            assert 0.99 * step < entry.worst_max_abs < step + 1e-5
    assert entries["onnxruntime:fp16"].thresholds["max_abs"] == 0.05 + step
    assert entries["torch:fp16"].thresholds == {"max_abs": 0.05, "psnr_db": 55}  # it has no such I/O type


def test_fp32_io_is_verified_as_ever(bundles):
    for entry in open_bundle(bundles["fp32"]).certificate().entries:
        assert "rounding" not in entry.thresholds


@pytest.mark.parametrize(
    ("io_dtype", "error"),
    [("uint8", 0.1 / 255), ("uint16", 1e-4), ("fp16", 1e-3), ("uint8", np.nan), ("uint8", np.inf)],
)
def test_a_wrong_weight_still_fails(bundles, tmp_path, io_dtype, error):
    """By an error of a tenth of an 8-bit step, which rounding hides in most samples, or by NaN."""
    import shutil

    from sr_deploy.files import sha256_of

    folder = tmp_path / "b"
    shutil.copytree(bundles[io_dtype], folder)
    path = folder / "model.fp32.onnx"
    before, model = sha256_of(path), onnx.load(path)
    bias = [one for one in model.graph.initializer if one.name.endswith("bias")][-1]
    changed = onnx.numpy_helper.to_array(bias) + np.float32(error)
    bias.CopyFrom(onnx.numpy_helper.from_array(changed, bias.name))
    onnx.save(model, path)
    manifest = folder / "bundle.json"
    manifest.write_text(manifest.read_text().replace(before, sha256_of(path)))
    (folder / "certificate.json").unlink()
    entries = {entry.backend: entry.passed for entry in verify_model(folder).entries}
    assert (entries["onnxruntime:fp32"], entries["openvino:fp32"]) == (False, False)


@pytest.mark.parametrize("io_dtype", ["uint8", "uint16", "fp16"])
def test_every_command_works(bundles, picture, tmp_path, capsys, io_dtype):
    assert main(["verify", str(bundles[io_dtype]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True
    out = tmp_path / "out.png"
    for model, target in ((bundles[io_dtype], out), (bundles["fp32"], tmp_path / "plain.png")):
        assert main(["upscale", str(picture), str(target), "--model", str(model), "--backend", "onnxruntime"]) == 0
    small, large = read_image(out), read_image(tmp_path / "plain.png")
    assert small.shape == large.shape == (120, 160, 3)
    # 8 bit: equal, because the graph rounds as the host would. Finer types round twice.
    difference = np.abs(small.astype(int) - large.astype(int))
    assert difference.max() <= (0 if io_dtype == "uint8" else 1)
    capsys.readouterr()
    assert main(["info", str(bundles[io_dtype]), "--json"]) == 0
    graphs = json.loads(capsys.readouterr().out)["graphs"]
    shown = {
        "fp16": "lr (N x 3 x H x W, float16) -> sr (float16)",
        "uint8": "lr (N x H x W x 3, uint8) -> sr (uint8)",
        "uint16": "lr (N x H x W x 3, uint16) -> sr (uint16)",
    }
    assert [graph["io"] for graph in graphs] == [shown[io_dtype]] * 2


@pytest.mark.slow
def test_bench_verifies_what_it_times(bundles, capsys):
    words = ["bench", str(bundles["uint8"]), "--shape", "1x24x32", "--backend", "openvino"]
    assert main([*words, "--seconds", "0.1", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    parities = {one["candidate"]: one["parity"] for one in results}
    assert set(parities) == {"torch:fp32+nchw", "openvino:fp32"}
    assert all(parity["verified"] for parity in parities.values())
    assert 0.45 / 255 < parities["openvino:fp32"]["max_abs"] < 0.5 / 255 + 1e-5


@pytest.mark.parametrize("choice", ["onnxruntime:fp32", "openvino:fp32"])
@pytest.mark.parametrize("io_dtype", ["uint8", "uint16", "fp16"])
def test_a_runner_takes_and_gives_float32_and_says_what_lies_behind(bundles, io_dtype, choice):
    lr = np.random.default_rng(2).random((2, 3, 9, 7), np.float32)
    highest = {"uint8": 255, "uint16": 65535}.get(io_dtype)
    with open_runner(bundles[io_dtype], choice) as runner, open_runner(bundles["fp32"], choice) as plain:
        assert runner.spec.dtype == {"fp16": "float16"}.get(io_dtype, io_dtype)
        assert runner.spec.layout == ("NHWC" if highest else "NCHW")
        assert (plain.spec.dtype, plain.spec.layout) == ("float32", "NCHW")
        sr = runner.infer(lr)
        assert (sr.dtype, sr.shape) == (np.float32, (2, 3, 18, 14))
        if highest:
            snapped = np.rint(lr * np.float32(highest)) / np.float32(highest)
            np.testing.assert_allclose(sr * highest, np.rint(sr * highest), atol=0.01)
            expected = np.clip(plain.infer(snapped), 0, 1)
            assert np.abs(sr - expected).max() <= 0.5 / highest + 1e-5
        else:
            expected = plain.infer(lr.astype(np.float16).astype(np.float32))
            assert np.abs(sr - expected).max() <= 2.0**-11


def test_a_graph_without_its_weights_is_compared_with_itself(bundles):
    for entry in verify_model(bundles["uint8"] / "model.fp32.onnx").entries:
        assert entry.passed
        assert entry.thresholds["rounding"] == 1 / 255  # both are rounded


def test_gray_networks_have_one_channel_last(tmp_path, export):
    gray = ArchSpec(architecture="compact", scale=2, channels=1, features=8, blocks=1)
    bundle = export(tmp_path, "uint8", arch=gray)
    model = open_model(bundle)
    assert (model.channels, model.input_dtype) == (1, "uint8")
    assert all(entry.passed for entry in open_bundle(bundle).certificate().entries)


@pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")
def test_engines_are_built_of_uint8_and_refused_of_uint16(tmp_path, export, capsys):
    built = export(tmp_path, "uint8", backend="tensorrt-rtx", name="whole")
    assert len(open_bundle(built).engines()) == 2
    capsys.readouterr()
    refused = export(tmp_path, "uint16", backend="tensorrt-rtx", name="wide")
    assert open_bundle(refused).engines() == ()
    assert "tensorrt-rtx has no 16-bit integers" in capsys.readouterr().out
