"""Runs that go on with something changed, and runs that are stopped while something takes long."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sr_deploy.cli import main
from sr_deploy.errors import TrainingError
from sr_deploy.imaging.codec import write_image
from sr_deploy.run_folder import HEADERS_NAME, STATE_NAME, find_last_checkpoint
from sr_deploy.train import loop, patience, validation
from sr_deploy.train.loop import train
from sr_deploy.train.recipe import load_recipe, read_run_recipe
from sr_deploy.train.run import read_manifest
from tests.integration.test_train import assert_same_end, logged_losses, stop_at


@pytest.fixture
def folder(tmp_path: Path, pictures: Path) -> Path:
    return Path(shutil.copytree(pictures, tmp_path / "data"))


def test_moved_data_other_validation_and_more_threads_are_taken_silently(tmp_path, make_recipe, folder, said):
    recipe = make_recipe(data={"folder": str(folder)})
    train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "parts", **stop_at(5))
    moved = tmp_path / "elsewhere" / "data"
    moved.parent.mkdir()
    folder.rename(moved)
    said.clear()
    places = {"folder": str(moved), "validation_folder": str(moved), "workers": 2, "cache_gib": 0.5}
    manifest = train(make_recipe(data=places), tmp_path / "parts", resume=True)
    beside = ("the device waits for data", "of 3 pictures to validate on 3 are trained on too")
    assert len([line for line in said if not line.startswith(beside)]) == 1
    assert manifest.history == ()
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
    assert str(moved) in (tmp_path / "parts" / HEADERS_NAME).read_text()


def test_a_change_of_the_mathematics_that_is_asked_for_is_in_the_history(tmp_path, make_recipe):
    run = tmp_path / "run"
    train(make_recipe(), run, **stop_at(5))
    changed = make_recipe(optimizer={"learning_rate": 1e-3}, data={"batch": 4})
    with pytest.raises(TrainingError, match=r"data\.batch: 2 -> 4; leave"):
        train(changed, run, resume=True, changes=["optimizer.learning_rate"])
    manifest = train(changed, run, resume=True, changes=["optimizer", "data.batch"])
    kept = [(one.step, one.key, one.old, one.new) for one in read_manifest(run).history]
    assert kept == [(5, "data.batch", 2, 4), (5, "optimizer.learning_rate", 2e-3, 1e-3)]
    assert (manifest.step, manifest.status) == (12, "finished")
    assert read_run_recipe(run / "recipe.toml").data.batch == 4
    rates = [json.loads(line).get("learning_rate") for line in (run / "metrics.jsonl").read_text().splitlines()]
    plain = tmp_path / "plain"
    train(make_recipe(), plain)
    rates_before = [
        json.loads(line).get("learning_rate") for line in (plain / "metrics.jsonl").read_text().splitlines()
    ]
    assert rates[0] == rates_before[0]  # of step 3
    assert rates[1] == pytest.approx(rates_before[1] / 2, rel=1e-3)  # of step 6


def test_pictures_added_and_lost_are_named_and_drawn_from_then_on(tmp_path, make_recipe, folder, said):
    recipe, run = make_recipe(data={"folder": str(folder)}), tmp_path / "run"
    train(recipe, run, **stop_at(5))
    (folder / "1.png").unlink()
    write_image(folder / "new" / "9.png", np.full((40, 44, 3), 7, np.uint8))
    said.clear()
    manifest = train(recipe, run, resume=True)
    named = f"1 lost ({folder / '1.png'}) and 1 added ({folder / 'new' / '9.png'}); from now on 3 are drawn from"
    assert any(line.endswith(named) for line in said)
    assert [(one.step, one.key, one.old, one.new) for one in manifest.history] == [(5, "pictures", 3, 3)]
    assert manifest.status == "finished"
    said.clear()
    longer = make_recipe(data={"folder": str(folder)}, run={"steps": 13})
    assert len(train(longer, run, resume=True).history) == 1
    assert not any("pictures are not" in line for line in said)


def test_other_pictures_altogether_have_to_be_asked_for(tmp_path, make_recipe, folder):
    recipe, run = make_recipe(data={"folder": str(folder)}), tmp_path / "run"
    train(recipe, run, **stop_at(3))
    shutil.rmtree(folder)
    write_image(folder / "x.png", np.full((40, 44, 3), 7, np.uint8))
    with pytest.raises(TrainingError, match=r"none of the 3 pictures .* bring them back, or .* --data DIR"):
        train(recipe, run, resume=True)
    assert train(recipe, run, resume=True, changes=["data.folder"]).history[0].new == 1


def test_a_run_without_kept_headers_goes_on(tmp_path, make_recipe, folder, said):
    recipe, run = make_recipe(data={"folder": str(folder)}), tmp_path / "run"
    train(recipe, tmp_path / "whole")
    train(recipe, run, **stop_at(5))
    (run / HEADERS_NAME).unlink()  # as of a run made before there were any
    document = json.loads((run / "run.json").read_text())
    del document["history"]
    (run / "run.json").write_text(json.dumps(document))
    assert train(recipe, run, resume=True).history == ()
    assert_same_end(tmp_path / "whole", run)


def test_stopped_while_data_is_away_it_writes_a_checkpoint_at_once(tmp_path, make_recipe, folder, monkeypatch):
    monkeypatch.setattr(patience, "_WAITS", (60,))
    recipe = make_recipe(data={"folder": str(folder), "cache_gib": 1e-6})
    run, stop, away = tmp_path / "run", threading.Event(), tmp_path / "away"

    def watch(report):
        if report.step == 5:
            folder.rename(away)
            threading.Timer(1.0, stop.set).start()

    began = time.monotonic()
    manifest = train(recipe, run, stop=stop, on_step=watch)
    assert time.monotonic() - began < 40
    assert manifest.status == "stopped"
    assert 5 <= manifest.step < 12
    assert find_last_checkpoint(run)[0] == manifest.step
    away.rename(folder)
    train(recipe, run, resume=True)
    train(recipe, tmp_path / "whole")
    assert_same_end(tmp_path / "whole", run)


@pytest.mark.parametrize("step", [6, 12])
def test_a_validation_that_was_stopped_is_made_by_who_goes_on(tmp_path, make_recipe, monkeypatch, step):
    whole = train(make_recipe(), tmp_path / "whole")
    stop, seen = threading.Event(), []
    plain = validation.upscale

    def upscale(network, lr, what, dtype):
        if f"after step {step}" in what:
            seen.append(what)
            stop.set()
        return plain(network, lr, what, dtype)

    monkeypatch.setattr(validation, "upscale", upscale)
    run = tmp_path / "parts"
    stopped = train(make_recipe(), run, stop=stop)
    assert (stopped.status, stopped.step, len(seen)) == ("stopped", step, 1)  # of three pictures
    resumed = train(make_recipe(), run, resume=True)
    assert resumed.status == "finished"
    assert resumed.last_validation == whole.last_validation
    assert resumed.best_validation == whole.best_validation
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [6, 12]
    assert logged_losses(run) == logged_losses(tmp_path / "whole")


def test_ctrl_c_before_the_first_step_ends_at_once_and_leaves_nothing(tmp_path, monkeypatch, capsys, folder):
    monkeypatch.chdir(tmp_path)
    plain = loop.open_session

    def interrupt(*arguments: object, **options: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return plain(*arguments, **options)

    monkeypatch.setattr(loop, "open_session", interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    try:
        assert main(["train", "--data", str(folder)]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert "interrupted" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_set_on_the_command_line_is_what_asks_for_a_change(tmp_path, monkeypatch, capsys, folder):
    monkeypatch.chdir(tmp_path)
    small = ["network.features=8", "network.blocks=1", "data.patch_size=16", "data.batch=2", "run.steps=2",
             "precision.autocast=off", "precision.channels_last=false", f"data.validation_folder={folder}"]  # fmt: skip
    words = [word for change in small for word in ("--set", change)]
    assert main(["train", *words, "--data", str(folder)]) == 0
    assert main(["train", "--resume", "--set", "run.steps=3", "--set", "optimizer.learning_rate=1e-5"]) == 0
    (change,) = read_manifest(tmp_path / "runs" / "demo").history
    assert (change.step, change.key, change.new) == (2, "optimizer.learning_rate", 1e-5)
    assert main(["train", "--resume", "--set", "network.features=12"]) == 1
    assert "network.features: 8 -> 12: a run keeps its network" in capsys.readouterr().err


def test_another_degradation_begins_the_pool_anew(tmp_path, make_recipe, said):
    published = load_recipe("realesrnet").degradation.model_dump(mode="json")
    run = tmp_path / "run"
    train(make_recipe(degradation={**published, "canvas": 32, "pool": 5}), run, **stop_at(3))
    said.clear()
    other = make_recipe(degradation={**published, "canvas": 32, "pool": 7}, run={"steps": 5})
    manifest = train(other, run, resume=True, changes=["degradation.pool"])
    assert said.count("the pool of training pairs begins anew: degradation.pool changed") == 1
    assert [(one.step, one.key, one.old, one.new) for one in manifest.history] == [(3, "degradation.pool", 5, 7)]
    assert torch.load(run / "checkpoints" / "step-000005" / STATE_NAME, weights_only=True)["pools"][0]["filled"] == 4
