from __future__ import annotations

import math

import pytest
import torch

from sr_deploy.train.losses.pixel import LOSS, PixelOptions
from sr_deploy.train.losses.registry import LossInputs

SR = torch.tensor([[[[0.0, 0.5], [1.0, 0.25]]]])
HR = torch.tensor([[[[0.0, 0.0], [0.6, 0.50]]]])  # differences 0, 0.5, 0.4, -0.25


def measure(options, sr, hr):
    criterion = LOSS.build(PixelOptions.model_validate(options), torch.device("cpu"))
    return criterion(LossInputs(hr, sr, hr, torch.full_like(hr, torch.nan), torch.neg, torch.neg))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"pixel": "l1"}, 1.15 / 4),
        ({"pixel": "mse"}, (0.25 + 0.16 + 0.0625) / 4),
        (
            {"pixel": "charbonnier", "charbonnier_epsilon": 0.3},
            (0.3 + math.sqrt(0.34) + 0.5 + math.sqrt(0.1525)) / 4,
        ),
    ],
)
def test_values_by_hand(options, expected):
    assert measure(options, SR, HR).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("pixel", ["l1", "mse", "charbonnier"])
def test_gradients_point_from_the_original_to_the_output(pixel):
    sr = SR.clone().requires_grad_()
    measure({"pixel": pixel}, sr, HR).backward()
    assert sr.grad is not None
    assert torch.equal(sr.grad.sign(), (SR - HR).sign())


def test_half_precision_outputs_are_averaged_in_fp32():
    # 1e-4 squared is 1e-8, below FP16's smallest number.
    sr = torch.full((1, 3, 8, 8), 1e-4, dtype=torch.float16)
    loss = measure({"pixel": "mse"}, sr, torch.zeros(1, 3, 8, 8))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1e-8, rel=1e-2)
