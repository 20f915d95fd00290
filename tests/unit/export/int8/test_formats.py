"""Numbers of 8 bit: rounding, neighbors and distances of E4M3 as PyTorch has them, and of integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sr_deploy.arch.quantized import round_to_e4m3, round_to_levels
from sr_deploy.export.int8.formats import FP8, INT8, find_format

EVERY = torch.arange(256, dtype=torch.int16).to(torch.uint8).view(torch.float8_e4m3fn).float()
FINITE = np.unique(EVERY[EVERY.isfinite()].numpy())
"""All E4M3 numbers, ascending; -0 and 0 are one."""


def test_fp8_rounds_as_pytorch_does_and_saturates():
    assert (len(FINITE), FINITE.max()) == (253, 448)
    between = (FINITE[1:] + FINITE[:-1]) / 2
    values = np.concatenate([FINITE, between, np.nextafter(between, np.float32(1e9)), [1e6, -1e6, 465, 1e-9]])
    values = values.astype(np.float32)
    rounded = FP8.round(values)
    assert rounded.dtype.name == "float8_e4m3fn"
    within = torch.from_numpy(values).clamp(-448, 448)
    assert np.array_equal(rounded.astype(np.float32), within.to(torch.float8_e4m3fn).float().numpy())
    assert np.array_equal(
        round_to_e4m3(torch.from_numpy(values.astype(np.float32))).numpy(), rounded.astype(np.float32)
    )
    assert round_to_e4m3(torch.tensor(FINITE).bfloat16()).float().tolist() == FINITE.tolist()  # BF16 holds them all


def test_neighbors_and_distances_of_fp8():
    numbers = FINITE.astype(FP8.dtype)
    assert FP8.rank(numbers).tolist() == list(range(-126, 127))
    up, down = (FP8.move(numbers, np.full(len(FINITE), one, np.int8)).astype(np.float32) for one in (1, -1))
    assert up.tolist() == [*FINITE[1:], 448]
    assert down.tolist() == [-448, *FINITE[:-1]]
    apart = FP8.spacing(FINITE[FINITE >= 0])
    assert apart[:-1].tolist() == np.diff(FINITE[FINITE >= 0]).tolist()
    assert FP8.spacing(np.array([0.0, 1.0, 1.9, -400.0])).tolist() == [2.0**-9, 1 / 8, 1 / 8, 32]


def test_whole_numbers():
    numbers = INT8.round(np.array([0.5, 1.5, -200, 126.6], np.float32))
    assert (numbers.tolist(), numbers.dtype) == ([0, 2, -127, 127], np.int8)
    assert INT8.move(numbers, np.array([1, -1, -1, 1], np.int8)).tolist() == [1, 1, -127, 127]
    assert INT8.spacing(np.array([3.0, 100.0])).tolist() == [1, 1]
    assert [find_format(one.dtype).name for one in (numbers, FP8.round(np.ones(1, np.float32)))] == ["int8", "fp8"]


def test_gradients_of_fp8_steps_and_values():
    step = torch.tensor(0.5, requires_grad=True)
    values = torch.tensor([0.55, -300.0, 1.0], requires_grad=True)
    levels = round_to_levels(values, step, in_fp8=True)
    assert levels.tolist() == [1.125, -448, 2]
    (levels * 0.5 * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert values.grad.tolist() == [1, 0, 3]
    assert step.grad.item() == pytest.approx(1 * (1.125 - 1.1) + 2 * -448 + 3 * 0, rel=1e-5)
