"""`state.pt` comes from a folder that anybody may have written."""

from __future__ import annotations

import pytest
import torch

from sr_deploy.arch.registry import build_network
from sr_deploy.errors import CheckpointError
from sr_deploy.run_folder import STATE_NAME
from sr_deploy.train.checkpoint import read_checkpoint_into, write_checkpoint
from sr_deploy.train.degradation import PairPool
from sr_deploy.train.ema import MovingAverage
from sr_deploy.train.state import TrainingState
from tests.fuzz.checkpoint_cases import CASES


def build_state(recipe, seed: int = 1) -> TrainingState:
    torch.manual_seed(seed)
    network = build_network(recipe.arch_spec())
    return TrainingState(
        network=network,
        average=MovingAverage(network, recipe.ema),
        optimizer=torch.optim.Adam(network.parameters(), fused=True),
        scaler=torch.amp.GradScaler("cpu", enabled=True),
        pool=PairPool(2, 0),
    )


@pytest.fixture
def folder(tmp_path, make_recipe):
    """A checkpoint after one step."""
    recipe = make_recipe()
    state = build_state(recipe)
    state.network(torch.full((1, 3, 8, 8), 0.5)).square().mean().backward()
    state.optimizer.step()
    state.step, state.metrics = 1, {"loss": [0.5]}
    return write_checkpoint(tmp_path, state, recipe.arch_spec())


def change(folder, alter) -> None:
    packed = torch.load(folder / STATE_NAME, weights_only=True)
    alter(packed)
    torch.save(packed, folder / STATE_NAME)


def assert_refused(folder, recipe, *words: str) -> None:
    state = build_state(recipe, 2)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint_into(folder, state)
    message = str(caught.value)
    for word in ("cannot be resumed from", "delete this folder to go on from the checkpoint before", *words):
        assert word in message, message
    assert len(message) < 1200
    assert state.step == 0


def moments(packed):
    return packed["optimizer"]["state"]


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (lambda packed: packed.update(step=-1), "'step'"),
        (lambda packed: packed.update(step=10**30), "'step'"),
        (lambda packed: packed.update(step="1"), "'step'"),
        (lambda packed: packed.update(seconds=float("nan")), "'seconds'"),
        (lambda packed: packed.update(metrics={"loss": [float("inf")]}), "'metrics'.'loss'"),
        (lambda packed: packed.update(metrics=[1]), "'metrics'"),
        (lambda packed: packed.update(schema_version=3), "'schema_version'"),
        (lambda packed: packed.update(other=1), "'other'"),
        (lambda packed: packed.pop("pools"), "'pools'"),
        (lambda packed: packed.update(optimizer=torch.zeros(2)), "'optimizer'"),
        (lambda packed: packed.update(best_validation={"step": 1}), "model"),
        (lambda packed: packed.update(pools=[{"filled": -1}]), "'pools'.0.'filled'"),
        (lambda packed: packed.update(scaler={"scale": 1.0}), "another precision"),
        (lambda packed: packed["scaler"].update(scale=float("nan")), "'scaler'.'scale'"),
        (lambda packed: packed["optimizer"].pop("state"), "moments are missing"),
        (lambda packed: moments(packed).update({10**6: {}}), "none of this network's"),
        (lambda packed: moments(packed)[0].pop("exp_avg"), "none of this network's"),
        (lambda packed: moments(packed)[0].update(exp_avg=torch.zeros(3)), "moment 0 (exp_avg)"),
        (lambda packed: moments(packed)[0].update(step="many"), "moment 0 (step)"),
        (lambda packed: moments(packed)[0]["exp_avg"].fill_(float("nan")), "holds NaN or infinity"),
    ],
)
def test_values_that_no_training_leaves_are_refused(folder, make_recipe, alter, words):
    change(folder, alter)
    assert_refused(folder, make_recipe(), words)


@pytest.mark.parametrize(
    "name",
    ["one number for many, old", "nested lists", "itself", "laughs", "many values", "code by a known name", "meta"],
)
def test_hostile_states_are_refused_as_weights_are(folder, make_recipe, name):
    (folder / STATE_NAME).write_bytes(CASES[name][0]())
    assert_refused(folder, make_recipe(), STATE_NAME)


def test_the_optimizer_s_settings_are_the_recipe_s(folder, make_recipe):
    """A file cannot switch on what would change or end the training."""
    change(folder, lambda packed: packed["optimizer"]["param_groups"][0].update(betas=(9.0, 9.0), maximize=True))
    state = build_state(make_recipe(), 2)
    read_checkpoint_into(folder, state)
    assert state.step == 1
    assert state.optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    assert state.optimizer.param_groups[0]["maximize"] is False
    assert float(state.optimizer.state_dict()["state"][0]["step"]) == 1
