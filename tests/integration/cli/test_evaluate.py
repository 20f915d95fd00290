from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import sr_deploy
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.cli import main
from sr_deploy.files import sha256_of
from sr_deploy.imaging.codec import bundled_photographs, read_image, read_training_image, write_image
from sr_deploy.imaging.resize import downscale_bicubic
from sr_deploy.measure.quality import score_pair

SPEC = ArchSpec(architecture="compact", scale=2, features=8, blocks=1)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, write_network):
    folder = tmp_path_factory.mktemp("evaluate")
    write_network(folder / "net.safetensors", SPEC)
    for name, (top, left) in {"coffee": (40, 100), "chelsea": (20, 60)}.items():
        hr = read_training_image(bundled_photographs()[name])[top : top + 200, left : left + 211]
        write_image(folder / "hr" / f"{name}.png", hr)
        write_image(folder / "lr" / f"{name}x2.png", downscale_bicubic(hr[:, :210], 2))
    write_image(folder / "hr" / "small.png", read_image(folder / "hr" / "coffee.png")[:60, :80])
    write_image(folder / "lr" / "smallx2.png", downscale_bicubic(read_image(folder / "hr" / "small.png"), 2))
    return folder


@pytest.fixture(scope="module")
def evaluated(prepared):
    """The Python function on its own: what the command must print."""
    return sr_deploy.evaluate_model(prepared / "net.safetensors", prepared / "hr", prepared / "lr")


def test_table_files_and_json_say_the_same(prepared, evaluated, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(prepared)
    out = tmp_path / "made" / "evaluation"
    words = ["evaluate", "net.safetensors", "--hr", "hr", "--lr", "lr", "--out", str(out)]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert "evaluating" in captured.err
    mean = next(line for line in captured.out.splitlines() if line.startswith("│ mean"))
    expected = evaluated.evaluation
    assert f"{expected.mean_model.psnr_y:.2f} / {expected.mean_bicubic.psnr_y:.2f}" in mean
    assert f"{expected.mean_model.ssim_rgb:.4f} / {expected.mean_bicubic.ssim_rgb:.4f}" in mean
    assert f"{expected.mean_model.niqe:.2f} / {expected.mean_bicubic.niqe:.2f} / " in mean
    assert f"{expected.mean_original_niqe:.2f} │" in mean
    assert "no NIQE for 1 of 3 pictures" in captured.out
    assert "torch:fp32" in captured.out
    written = json.loads((out / "evaluation.json").read_text())
    assert np.array_equal(read_image(out / "worst-crops.png"), evaluated.worst_crops)
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == written
    assert document["pictures"] == [one.model_dump(mode="json") for one in expected.pictures]
    assert document["model_sha256"] == sha256_of(prepared / "net.safetensors")
    assert [one["name"] for one in document["pictures"]] == ["chelsea", "coffee", "small"]
    assert document["lr"] == "lr"


def test_figures_are_those_of_the_upscaler_on_the_pairs(prepared, evaluated):
    with sr_deploy.Upscaler(prepared / "net.safetensors") as upscale:
        sr = upscale(read_image(prepared / "lr" / "coffeex2.png"))
    hr = read_image(prepared / "hr" / "coffee.png")[:, :210]
    coffee = evaluated.evaluation.pictures[1]
    assert (coffee.width, coffee.height) == (210, 200)
    assert coffee.model.psnr_y == pytest.approx(score_pair(sr, hr, 2).psnr_y)
    assert coffee.bicubic.psnr_y > 20


def test_low_resolution_made_here_gives_the_same_as_the_papers_files(prepared, evaluated):
    made = sr_deploy.evaluate_model(prepared / "net.safetensors", prepared / "hr", with_niqe=False).evaluation
    assert made.lr is None
    for ours, theirs in zip(made.pictures, evaluated.evaluation.pictures, strict=True):
        assert ours.model.psnr_y == theirs.model.psnr_y
        assert ours.model.niqe is None


def test_without_niqe_and_files_nothing_of_them_is_there(prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", str(prepared / "net.safetensors"), "--hr", str(prepared / "hr"), "--no-niqe"]
    assert main(words) == 0
    out = capsys.readouterr().out
    header = next(line for line in out.splitlines() if "PSNR-Y" in line)
    assert "NIQE" not in header
    assert "made of the originals by bicubic" in out
    assert list(tmp_path.iterdir()) == []


def test_lpips_is_marked_as_not_validated(prepared, lpips_files, capsys):
    from sr_deploy.arch.lpips import Lpips

    files = [str(path) for path in lpips_files]
    words = ["evaluate", str(prepared / "net.safetensors"), "--hr", str(prepared / "hr"), "--lpips", *files]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert any("LPIPS is not validated here" in note for note in document["notes"])
    hr = read_image(prepared / "hr" / "chelsea.png")[:, :210]
    with sr_deploy.Upscaler(prepared / "net.safetensors") as upscale:
        sr = upscale(downscale_bicubic(hr, 2))
    distance = Lpips.read(*lpips_files)(sr[2:-2, 2:-2], hr[2:-2, 2:-2])
    assert document["pictures"][0]["model"]["lpips"] == pytest.approx(distance, rel=1e-4)
    assert main([*words[:-2], *reversed(files)]) == 1
    assert "no AlexNet or VGG16" in capsys.readouterr().err


def test_bundles_and_tiles_are_taken(make_bundle, prepared, tmp_path, capsys):
    bundle = make_bundle("compact-x4", tmp_path)
    words = ["evaluate", str(bundle.path), "--hr", str(prepared / "hr"), "--no-niqe", "--json"]
    results = []
    for extra in (["--backend", "torch"], ["--backend", "onnxruntime:fp32", "--tile", "24"]):
        assert main([*words, *extra]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert [result["backend"] for result in results] == ["torch:fp32", "onnxruntime:fp32"]
    for ours, theirs in zip(*(result["pictures"] for result in results), strict=True):
        assert ours["model"]["psnr_y"] == pytest.approx(theirs["model"]["psnr_y"], abs=1e-3)


def test_errors_are_one_line_and_nothing_is_written(prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    net, hr = str(prepared / "net.safetensors"), str(prepared / "hr")
    shutil.copytree(prepared / "hr", tmp_path / "same")
    for words, message in (
        (["evaluate", net, "--hr", "none"], "none does not exist; give a folder of pictures"),
        (["evaluate", net, "--hr", hr, "--lr", str(tmp_path / "same")], "is not 2 times"),
        (["evaluate", "--hr", hr], "or give MODEL"),
        (["evaluate", net, "--hr", hr, "--backend", "abacus"], "abacus"),
    ):
        assert main([*words, "--out", "out"]) == 1, words
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.splitlines()[-1].startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["same"]
    assert main(["evaluate", net]) == 2
    tiny = tmp_path / "tiny"
    write_image(tiny / "t.png", np.zeros((12, 12, 3), np.uint8))
    assert main(["evaluate", net, "--hr", str(tiny)]) == 1
    assert "t.png: a 12x12 picture (HxW) is too small to score at x2" in capsys.readouterr().err


def test_a_network_that_does_not_enlarge_needs_its_inputs(make_bundle, prepared, tmp_path, capsys):
    bundle = make_bundle("compact-x1", tmp_path)
    assert main(["evaluate", str(bundle.path), "--hr", str(prepared / "hr")]) == 1
    assert "does not enlarge (x1): give the pictures that it is for with --lr" in capsys.readouterr().err
    hr, same = str(prepared / "hr"), str(shutil.copytree(prepared / "hr", tmp_path / "same"))
    assert main(["evaluate", str(bundle.path), "--hr", hr, "--lr", same, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["mean_bicubic"]["psnr_y"] == 100
    assert 5 < document["mean_model"]["psnr_y"] < 100


@pytest.mark.skipif("SR_DEPLOY_DATA" not in os.environ, reason="SR_DEPLOY_DATA does not name the folder with Set14")
def test_set14_gives_the_published_figures(capsys):
    data = Path(os.environ["SR_DEPLOY_DATA"])
    set14 = str(data / "valid" / "set14")
    words = ["evaluate", str(data / "checkpoints" / "realesr-animevideov3.pth"), "--hr", set14, "--lr", set14]
    assert main([*words, "--no-niqe", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["pictures"]) == 14
    figures = [round(document[who][what], digits) for who in ("mean_bicubic", "mean_model")
               for what, digits in (("psnr_y", 2), ("ssim_y", 4))]  # fmt: skip
    assert figures == [26.09, 0.7049, 26.11, 0.7133]
