from __future__ import annotations

import copy

import pytest
import torch

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.errors import RecipeError
from sr_deploy.train.dropout import LastDropout
from sr_deploy.train.networks import check_inputs

CPU = torch.device("cpu")


def build(features: int = 400) -> torch.nn.Module:
    return build_network(ArchSpec(architecture="msrresnet", scale=2, features=features, blocks=0))


def watch_input(network: torch.nn.Module) -> list[torch.Tensor]:
    """What the last convolution gets."""
    seen: list[torch.Tensor] = []
    network.conv_last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    return seen


def test_channels_are_dropped_by_their_probability_and_the_others_make_up_for_it():
    network = build()
    plain = copy.deepcopy(network)
    dropout = LastDropout(network, 0.3, seed=1)
    dropped, whole = watch_input(network), watch_input(plain)
    dropout.draw(0, 0, 4, CPU)
    lr = torch.rand(4, 3, 5, 6)
    for one in (network, plain):
        one(lr)
    (got,), (expected,) = dropped, whole
    gone = (got == 0).all(dim=(2, 3))
    assert abs(gone.float().mean() - 0.3) < 5 * (0.3 * 0.7 / 1600) ** 0.5
    torch.testing.assert_close(got, torch.where(gone[..., None, None], 0.0, expected / 0.7))
    assert len({tuple(row.tolist()) for row in gone}) == 4


def test_what_is_dropped_depends_on_seed_step_and_sample_alone():
    network = build(features=64)
    dropout, other = LastDropout(network, 0.5, seed=1), LastDropout(build(features=64), 0.5, seed=2)

    def draw(by: LastDropout, step: int, first: int, count: int) -> list[list[float]]:
        by.draw(step, first, count, CPU)
        return by._factors_NC11[..., 0, 0].tolist()

    whole = draw(dropout, 3, 0, 6)
    assert draw(dropout, 3, 2, 3) == whole[2:5]
    assert {number for row in whole for number in row} == {0.0, 2.0}
    assert draw(dropout, 4, 0, 6) != whole
    assert draw(other, 3, 0, 6) != whole


def test_networks_without_a_place_for_it_are_refused(make_recipe):
    with pytest.raises(RecipeError, match=r"optimizer\.dropout is for networks .* conv_last, and Compact has none"):
        check_inputs(make_recipe(optimizer={"dropout": 0.5}))
    with pytest.raises(RecipeError, match=r"optimizer\.dropout.*less than 1 \(it is 1\)"):
        make_recipe(optimizer={"dropout": 1})
