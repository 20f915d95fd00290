from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.cli import main
from sr_deploy.imaging.codec import write_image
from sr_deploy.train.run import read_manifest

SMALL = ["network.features=8", "network.blocks=1", "data.patch_size=32", "data.batch=2", "run.steps=4",
         "precision.autocast=off", "precision.channels_last=false", "run.log_every=2"]  # fmt: skip


def words(*more: str) -> list[str]:
    return ["train", *(word for change in SMALL for word in ("--set", change)), *more]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_image(tmp_path / "held" / "a.png", np.random.default_rng(0).integers(0, 255, (48, 52, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_a_recipe_it_trains_the_demo_and_never_overwrites(here, capsys):
    assert main(words()) == 0
    shown = capsys.readouterr()
    assert "chelsea" in shown.out
    assert "mean" in shown.out
    assert "newest checkpoint: runs/demo/checkpoints/step-000004" in shown.out
    assert re.search(r"best: step 4 \(\d+\.\d\d dB Y-PSNR, .* as runs/demo@best", shown.out)
    assert "training demo: 100 %" in shown.err
    before = (here / "runs" / "demo" / "run.json").read_bytes()
    assert main(words("--set", "data.validation_folder=held")) == 0
    assert read_manifest(here / "runs" / "demo-2").step == 4
    assert (here / "runs" / "demo" / "run.json").read_bytes() == before


def test_json_is_one_document_with_the_scores(here, capsys):
    assert main(words("--set", "data.validation_folder=held", "--data", "held", "--json", "--out", "x")) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert (document["run"], document["status"], document["step"]) == ("x", "finished", 4)
    assert document["last_validation"]["photographs"][0]["name"] == "a"
    assert document["last_validation"]["bicubic"]["psnr_y"] == pytest.approx(
        document["last_validation"]["photographs"][0]["bicubic"]["psnr_y"]
    )
    assert (here / "x" / "recipe.toml").read_text().count(f'folder = "{here / "held"}"') == 1


def test_data_is_one_folder_in_place_of_all_sources(here):
    for name in ("b", "c"):
        write_image(here / name / "b.png", np.random.default_rng(1).integers(0, 255, (80, 64, 3), np.uint8))
    sources = ["--set", 'data.source=[{folder="b", weight=1}, {folder="c", weight=2, scaled=false}]',
               "--set", "data.scales=[1.0, 0.5]", "--set", "data.validation_folder=held"]  # fmt: skip
    assert main(words(*sources, "--out", "both")) == 0
    stored = tomllib.loads((here / "both" / "recipe.toml").read_text())["data"]
    assert stored["source"] == [
        {"folder": "b", "weight": 1.0, "scaled": True}, {"folder": "c", "weight": 2.0, "scaled": False}
    ]  # fmt: skip
    assert main(["train", "--resume", "--out", "both", "--set", "run.steps=6"]) == 0
    assert read_manifest(here / "both").step == 6
    assert main(words(*sources, "--data", "held", "--out", "one")) == 0
    stored = tomllib.loads((here / "one" / "recipe.toml").read_text())["data"]
    assert (stored["folder"], stored["source"], stored["scales"]) == (str(here / "held"), [], [1.0, 0.5])
    assert main(["train", "--resume", "--out", "one", "--data", "held", "--set", "run.steps=6"]) == 0


def test_info_of_a_run_says_which_step_was_best_and_takes_one_by_name(here, capsys):
    assert main(words("--set", "data.validation_folder=held", "--set", "run.validate_every=2", "--out", "x")) == 0
    best = read_manifest(here / "x").best_validation
    capsys.readouterr()
    assert main(["info", "x@best", "--curves", "x.svg", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["path"] == f"x/checkpoints/step-{best.step:06d}"
    assert document["source"]["best"].startswith(f"step {best.step} ({best.model.psnr_y:.2f} dB Y-PSNR")
    assert document["source"]["checkpoints"] == "2 4"
    assert main(["export", "x@4", "--backend", "none"]) == 0
    assert (here / "deployments" / "x" / "bundle.json").is_file()
    assert main(["info", "x@3"]) == 1
    assert re.search(r"error: x has no checkpoint '3'; kept are .*: 2, 4; give x@STEP", capsys.readouterr().err)


def test_resume_takes_the_newest_run_and_its_own_recipe(here, capsys):
    for _ in range(2):
        assert main(words("--set", "data.validation_folder=held")) == 0
    assert main(["train", "--resume"]) == 0
    assert "runs/demo-2 is finished: 4 steps" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", "runs/demo", "--set", "run.steps=6"]) == 0
    assert read_manifest(here / "runs" / "demo").step == 6
    assert main(["train", "--resume"]) == 0  # written last, so now the newest
    assert "runs/demo is finished: 6 steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "no recipe named 'nonsense'; known: "),
        (["--set", "run.stepps=3"], "unknown key 'run.stepps' (did you mean 'steps'?)"),
        (["--set", "steps"], "--set takes section.key=value, not 'steps'"),
        (["--set", "run.steps=-1"], "'run.steps': Input should be greater than or equal to 1 (it is -1)"),
        (["--data", "nowhere"], "nowhere does not exist"),
        (["--from", "nowhere.pth"], "nowhere.pth does not exist"),
        (["--from", "x", "--resume"], "give one of them"),
        (["--resume"], "no run in runs; train one with: sr-deploy train"),
        (["--resume", "--out", "held"], "cannot resume held: there is no run"),
        (["--device", "tpu"], "no device 'tpu' here"),
        (
            ["compact-gan", "--set", "data.patch_size=44", "--set", "loss.perceptual.weight=0"],
            "the discriminator unet takes patches whose side is a multiple of 8, not 44",
        ),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(here, capsys, arguments, message):
    assert main(["train", *arguments]) == 1
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert message in errors[0]
    assert [path.name for path in here.iterdir()] == ["held"]


def test_an_occupied_folder_is_refused(here, capsys):
    assert main(words("--set", "data.validation_folder=held", "--out", "held")) == 1
    assert "held is not empty; give a new folder with --out" in capsys.readouterr().err
    assert [path.name for path in (here / "held").iterdir()] == ["a.png"]


def test_ctrl_c_writes_a_checkpoint_and_says_how_to_go_on(here, capsys, monkeypatch):
    import os
    import signal

    from sr_deploy.train import loop

    plain = loop.write_preview

    def interrupt(*arguments: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return plain(*arguments)

    monkeypatch.setattr(loop, "write_preview", interrupt)
    stop = ["--set", "data.validation_folder=held", "--set", "run.preview_every=2"]
    assert main(words(*stop)) == 130
    manifest = read_manifest(here / "runs" / "demo")
    assert (manifest.status, manifest.step) == ("stopped", 3)
    assert manifest.checkpoints == ("checkpoints/step-000003",)
    assert "stopped at step 3 of 4; go on with: sr-deploy train --resume --out runs/demo" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert main(["train", "--resume"]) == 0
    assert read_manifest(here / "runs" / "demo").status == "finished"
