"""Convolutions that train with the rounding of INT8: the numbers of the exported graph, and gradients through them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sr_deploy.arch.quantized import find_weight_steps, quantize_convolutions, round_to_levels
from sr_deploy.errors import CheckpointError
from sr_deploy.export.int8.insert import quantize_weight


@pytest.mark.parametrize("size", [1e-9, 1e-4, 0.3, 40.0])
def test_steps_of_weights_are_those_of_the_exported_graph(size: float) -> None:
    weight = size * np.random.default_rng(0).normal(size=(16, 8, 3, 3)).astype(np.float32)
    levels, steps = quantize_weight(weight, per_channel=True)
    found = find_weight_steps(torch.from_numpy(weight))
    assert np.array_equal(found.numpy(), steps)
    assert np.array_equal(np.rint(weight / found.numpy().reshape(-1, 1, 1, 1)), levels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_convolution_multiplies_whole_numbers_and_scales_their_sums(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 2, 1, bias=False))
    plain = copy.deepcopy(network)
    quantize_convolutions(network, {"0": 1 / 64})
    assert network.state_dict().keys() == plain.state_dict().keys()
    x = torch.rand(1, 3, 9, 7) * 4 - 2
    step = find_weight_steps(plain[0].weight).reshape(-1, 1, 1, 1)
    levels = (x * 64).round().clamp(-128, 127)
    sums = nn.functional.conv2d(levels, (plain[0].weight / step).round(), padding=1)
    expected = plain[1](sums * (step.reshape(1, -1, 1, 1) / 64) + plain[0].bias.reshape(1, -1, 1, 1))
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        found = network(x)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    assert torch.allclose(found.float(), expected, atol=tolerance)
    assert not torch.allclose(plain(x), expected, atol=1e-3)  # it does round


def test_gradients_go_through_rounding_inside_the_range_and_reach_the_weights() -> None:
    values = torch.tensor([-3.0, -0.2, 0.01, 0.9, 5.0], requires_grad=True)
    (0.01 * round_to_levels(values, torch.tensor(0.01))).sum().backward()
    assert torch.allclose(values.grad, torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0]))
    convolution = nn.Sequential(nn.Conv2d(2, 2, 1))
    x = torch.rand(1, 2, 4, 4)
    convolution(x).sum().backward()
    plain = [parameter.grad.clone() for parameter in convolution.parameters()]
    convolution.zero_grad()
    quantize_convolutions(convolution, {"0": 1 / 127})
    convolution(x).sum().backward()
    for gradient, parameter in zip(plain, convolution.parameters(), strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=0.02)


@pytest.mark.parametrize("name", ["1", "0.weight", ""])
def test_steps_of_what_is_no_convolution_are_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="not a plain convolution"):
        quantize_convolutions(nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU()), {name: 0.1})
