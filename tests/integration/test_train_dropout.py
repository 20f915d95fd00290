"""Trainings with channel dropout before the last convolution."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from sr_deploy.model import open_model
from sr_deploy.run_folder import AVERAGE_NAME, find_last_checkpoint
from sr_deploy.train.loop import train
from tests.integration.test_train import assert_same_end, logged_losses, stop_at
from tests.integration.test_train_processes import losses, run

MSRRESNET = {"architecture": "msrresnet", "features": 8, "blocks": 1}


def test_resumed_with_dropout_it_ends_with_the_bits_of_one_that_was_not_stopped(tmp_path, make_recipe):
    recipe = make_recipe(network=MSRRESNET, optimizer={"dropout": 0.5})
    train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "parts", **stop_at(5))
    train(recipe, tmp_path / "parts", resume=True)
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
    train(make_recipe(network=MSRRESNET), tmp_path / "without")
    assert logged_losses(tmp_path / "without")[0][1] != logged_losses(tmp_path / "whole")[0][1]


def test_parts_of_a_batch_drop_what_the_whole_batch_does(tmp_path, make_recipe):
    for parts in (1, 2):
        recipe = make_recipe(network=MSRRESNET, optimizer={"dropout": 0.5, "accumulate": parts}, data={"batch": 4})
        train(recipe, tmp_path / str(parts))
    whole, parts = (dict(logged_losses(tmp_path / name)) for name in ("1", "2"))
    assert parts == pytest.approx(whole, rel=1e-4)


def test_nothing_is_dropped_when_the_network_is_used(tmp_path, make_recipe):
    train(make_recipe(network=MSRRESNET, optimizer={"dropout": 0.9}), tmp_path / "run")
    model = open_model(tmp_path / "run")
    network, lr = model.load_network().eval(), torch.rand(1, 3, 9, 9)
    assert torch.equal(network(lr), network(lr))
    plain = load_file(find_last_checkpoint(tmp_path / "run")[1] / AVERAGE_NAME)
    assert plain.keys() == network.state_dict().keys()


@pytest.mark.slow
def test_two_processes_drop_what_one_does(tmp_path):
    settings = ["run.steps=6", "optimizer.dropout=0.5", "network.architecture=msrresnet"]
    for processes in (1, 2):
        run(processes, tmp_path / str(processes), settings=settings)
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), rel=1e-4)
