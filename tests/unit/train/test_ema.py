from __future__ import annotations

import pytest
import torch
from torch import nn

from sr_deploy.train.ema import MovingAverage
from sr_deploy.train.recipe import EmaRecipe


def small_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))


def test_weights_and_float_buffers_are_averaged_and_counters_copied():
    network = small_network()
    with torch.no_grad():
        network[0].weight.fill_(1.0)
        network[1].running_mean.fill_(4.0)
    average = MovingAverage(network, EmaRecipe(decay=0.75, warm_up=False))
    with torch.no_grad():
        network[0].weight.fill_(2.0)
        network[1].running_mean.fill_(8.0)
        network[1].num_batches_tracked.fill_(5)
    average.update(network, 0)
    assert average.network[0].weight.item() == pytest.approx(1.25)
    assert average.network[1].running_mean.item() == pytest.approx(5.0)
    assert average.network[1].num_batches_tracked.item() == 5
    average.update(network, 1)
    assert average.network[0].weight.item() == pytest.approx(0.75 * 1.25 + 0.25 * 2)
    assert network[0].weight.item() == 2.0


def test_the_average_is_frozen_and_evaluates():
    network = small_network().train()
    average = MovingAverage(network, EmaRecipe())
    assert not average.network.training
    assert network.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())


def test_warm_up_forgets_the_first_weights():
    average = MovingAverage(small_network(), EmaRecipe(decay=0.999))
    assert [average.decay_at(step) for step in (0, 9, 100_000)] == pytest.approx([0.1, 10 / 19, 0.999])
    assert MovingAverage(small_network(), EmaRecipe(decay=0.999, warm_up=False)).decay_at(0) == 0.999
