"""Trainings that keep parts of the generator as they are."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from sr_deploy.errors import TrainingError
from sr_deploy.run_folder import AVERAGE_NAME, GENERATOR_NAME, STATE_NAME, find_last_checkpoint
from sr_deploy.train.loop import train
from sr_deploy.train.recipe import read_run_recipe
from sr_deploy.train.run import read_manifest
from tests.integration.test_train import SRRESNET, assert_same_end, stop_at
from tests.integration.test_train_processes import last_weights, losses, run

FROZEN = ["conv_first", "prelu", "body"]


def read_weights(folder, name=GENERATOR_NAME):
    return load_file(find_last_checkpoint(folder)[1] / name)


def is_frozen(name):
    return name.split(".")[0] in FROZEN


def test_only_the_tail_of_given_weights_moves(tmp_path, make_recipe):
    train(make_recipe(network=SRRESNET), tmp_path / "first")
    start = read_weights(tmp_path / "first", AVERAGE_NAME)
    recipe = make_recipe(network=SRRESNET, optimizer={"frozen": FROZEN, "clip_norm": 1.0}, ema={"decay": 0.9})
    manifest = train(recipe, tmp_path / "tail", start_from=tmp_path / "first")
    assert manifest.status == "finished"
    for file in (GENERATOR_NAME, AVERAGE_NAME):
        weights = read_weights(tmp_path / "tail", file)
        same = {name for name, tensor in weights.items() if torch.equal(tensor, start[name])}
        assert same == {name for name in weights if is_frozen(name)}, file  # statistics of its normalizations too
    assert read_run_recipe(tmp_path / "tail" / "recipe.toml").optimizer.frozen == tuple(FROZEN)


def test_frozen_weights_have_no_moments_and_resume_to_the_bit(tmp_path, make_recipe):
    recipe = make_recipe(network=SRRESNET, optimizer={"frozen": FROZEN})
    train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "parts", **stop_at(5))
    train(recipe, tmp_path / "parts", resume=True)
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
    state = torch.load(find_last_checkpoint(tmp_path / "whole")[1] / STATE_NAME, weights_only=True)
    shapes = [tuple(held["exp_avg"].shape) for held in state["optimizer"]["state"].values()]
    trained = [name for name in read_weights(tmp_path / "whole") if not is_frozen(name) and "running" not in name]
    weights = read_weights(tmp_path / "whole")
    expected = [tuple(weights[name].shape) for name in trained if "num_batches" not in name]
    assert sorted(shapes) == sorted(expected)


def test_a_run_goes_on_with_other_parts_where_that_is_asked_for(tmp_path, make_recipe):
    folder = tmp_path / "run"
    train(make_recipe(network=SRRESNET, optimizer={"frozen": FROZEN}), folder, **stop_at(5))
    before = read_weights(folder)
    other = make_recipe(network=SRRESNET, optimizer={"frozen": ["conv_last"]})
    with pytest.raises(TrainingError, match=r"optimizer\.frozen: \['conv_first', 'prelu', 'body'\] -> \['conv_last'\]"):
        train(other, folder, resume=True)
    train(other, folder, resume=True, changes=["optimizer.frozen"])
    (change,) = read_manifest(folder).history
    assert (change.step, change.key, change.new) == (5, "optimizer.frozen", ["conv_last"])
    after = read_weights(folder)
    same = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    assert same == {name for name in after if name.startswith("conv_last.")}


@pytest.mark.slow
def test_two_processes_freeze_alike(tmp_path):
    settings = ["run.steps=6", 'optimizer.frozen=["body.0", "body.1"]']
    for processes in (1, 2):
        run(processes, tmp_path / str(processes), settings=settings)
    run(1, tmp_path / "start", settings=["run.steps=1", 'optimizer.frozen=["body.0", "body.1"]'])
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), rel=1e-4)
    start = last_weights(tmp_path / "start", 1, "generator")
    for processes in (1, 2):
        weights = last_weights(tmp_path / str(processes), 6, "generator")
        same = {name for name, tensor in weights.items() if torch.equal(tensor, start[name])}
        assert same == {"body.0.weight", "body.0.bias", "body.1.weight"}
