"""The network that ships with sr-deploy: used where there is no other, certified, and never written to."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sr_deploy.backends.registry import parse_backend
from sr_deploy.bundle import open_bundle
from sr_deploy.cli import main
from sr_deploy.deps import is_installed
from sr_deploy.files import sha256_of
from sr_deploy.imaging.codec import bundled_photographs, read_image, write_image
from sr_deploy.imaging.resize import downscale_bicubic, upscale_bicubic
from sr_deploy.measure.quality import score_pair
from sr_deploy.model import open_model
from sr_deploy.shipped import DEFAULT_MODEL, is_shipped, shipped_models
from sr_deploy.train.recipe import load_recipe
from sr_deploy.upscale.image import Upscaler

# dB of luma that it is ahead of bicubic on photographs that it has never seen, a tenth below docs/shipped-model.md.
GAINS = {"chelsea": 1.1, "coffee": 2.2, "rocket": 1.3}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with nothing in it, worked in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cut_pair(name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A held-out photograph with even sides, and before it its half by the papers' bicubic."""
    hr = read_image(bundled_photographs()[name])
    hr = hr[: hr.shape[0] // 2 * 2, : hr.shape[1] // 2 * 2]
    return downscale_bicubic(hr, 2), hr


def list_shipped() -> dict[Path, int]:
    """When each file and folder of the shipped bundle was changed."""
    return {path: path.stat().st_mtime_ns for path in (DEFAULT_MODEL.parent, *DEFAULT_MODEL.parent.rglob("*"))}


@pytest.mark.parametrize("name", GAINS)
def test_upscales_out_of_the_box_better_than_bicubic(here: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    lr, hr = cut_pair(name)
    write_image(Path("lr.png"), lr)
    before = list_shipped()
    assert main(["upscale", "lr.png", "sr.png"]) == 0
    said = capsys.readouterr()
    assert (
        "no bundle in deployments and no run in runs: taking small-x2, which ships with sr-deploy (compact x2, "
        "8 blocks, 32 features, RGB)"
    ) in said.err.splitlines()
    assert said.out.splitlines()[0] == f"model    {DEFAULT_MODEL}"
    sr = read_image(Path("sr.png"))
    assert sr.shape == hr.shape
    gain = score_pair(sr, hr, 2).psnr_y - score_pair(upscale_bicubic(lr, 2), hr, 2).psnr_y
    assert gain >= GAINS[name]
    assert list_shipped() == before


@pytest.mark.parametrize(
    ("backend", "loss"), [("onnxruntime:fp16", 0.01), ("onnxruntime:int8", 0.05), ("openvino:int8", 0.05)]
)
def test_lower_precisions_lose_no_more_than_their_budget(backend: str, loss: float) -> None:
    if not is_installed(parse_backend(backend).backend):
        pytest.skip(f"{backend} is not installed")
    lr, hr = cut_pair("coffee")
    with Upscaler("small-x2", backend="torch:fp32") as exact, Upscaler("small-x2", backend=backend) as other:
        assert score_pair(exact(lr), hr, 2).psnr_y - score_pair(other(lr), hr, 2).psnr_y <= loss


def test_own_networks_come_first(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(Path("lr.png"), cut_pair("chelsea")[0][:40, :50])
    shutil.copytree(DEFAULT_MODEL, "deployments/mine")
    assert main(["upscale", "lr.png", "sr.png"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == "model    deployments/mine"
    assert "small-x2" not in said.err


@pytest.mark.parametrize("words", [["evaluate", "--hr", "."], ["verify"], ["bench"], ["export"]])
def test_other_commands_ask_for_a_model(here: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: no bundle in deployments" if words != ["export"] else "error: no run")


def test_is_found_by_name_unless_there_is_a_file_of_that_name(here: Path) -> None:
    assert shipped_models() == {"small-x2": DEFAULT_MODEL}
    assert open_model("small-x2").path == DEFAULT_MODEL
    assert is_shipped(DEFAULT_MODEL / ".." / "small-x2")
    shutil.copytree(DEFAULT_MODEL, "small-x2")
    assert open_model("small-x2").path == Path("small-x2")
    assert not is_shipped(Path("small-x2"))


def test_certificate_is_of_these_very_files() -> None:
    bundle = open_bundle(DEFAULT_MODEL)  # the hash of every graph and of the weights is checked
    certificate, manifest = bundle.certificate(), bundle.manifest
    graphs = {graph.file: graph.sha256 for graph in manifest.graphs}
    assert {entry.artifact.file for entry in certificate.entries} >= set(graphs)
    assert {entry.precision for entry in certificate.entries} == {"fp32", "fp16", "int8"}
    for entry in certificate.entries:
        assert entry.passed
        assert entry.reference_sha256 == manifest.reference.sha256
        assert entry.artifact.sha256 == graphs.get(entry.artifact.file, manifest.reference.sha256)
    assert all(check.passed for check in certificate.checks)
    looked_at = {"calibration", "certificate", "weights", "precision", "drop"}
    assert {check.kind for check in certificate.checks} == looked_at
    assert manifest.int8 is not None
    assert manifest.int8.passed
    assert manifest.int8.max_drop_db == 0.05
    assert manifest.int8.share > 0.9


def test_is_of_its_recipe_and_names_its_photographs() -> None:
    manifest = open_bundle(DEFAULT_MODEL).manifest
    assert manifest.arch == load_recipe("small-x2").arch_spec()
    assert "/" not in manifest.source.file
    terms = (DEFAULT_MODEL / "PHOTOGRAPHS.md").read_text(encoding="utf-8")
    report = json.loads((DEFAULT_MODEL / "int8.json").read_text(encoding="utf-8"))
    trained, held_out = terms.split("## Held out", 1)
    count = trained.count("\n| ") - 1  # rows without the table's head
    assert report["photographs"] == f"training ({2 * count})"  # each at half its size too
    for name in load_recipe("small-x2").data.held_out:
        path = bundled_photographs()[name]
        assert f"| {path.name} | scikit-image |" in held_out
        assert sha256_of(path) in held_out
        assert path.name not in trained


@pytest.mark.slow
def test_verifies_and_stays_as_it_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = list_shipped()
    assert main(["verify", "small-x2", "--html", "page.html", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["passed"]
    assert document["certificate"] is None
    assert document["html"] == "page.html"
    assert "small-x2" in Path("page.html").read_text(encoding="utf-8")
    assert main(["info", "small-x2"]) == 0
    assert "small-x2: bundle" in capsys.readouterr().out
    assert list_shipped() == before


def test_a_changed_file_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(DEFAULT_MODEL, "copy")
    graph = Path("copy/model.int8.onnx")
    graph.write_bytes(graph.read_bytes() + b" ")
    assert main(["info", "copy"]) == 1
    assert "copy/model.int8.onnx was changed after it was recorded" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_works_where_nothing_may_be_written(here: Path) -> None:
    shutil.copytree(DEFAULT_MODEL, "locked")
    for path in Path("locked").iterdir():
        path.chmod(0o400)
    Path("locked").chmod(0o500)
    write_image(Path("lr.png"), cut_pair("chelsea")[0][:40, :50])
    assert main(["upscale", "lr.png", "sr.png", "--model", "locked"]) == 0
    assert read_image(Path("sr.png")).shape == (80, 100, 3)
