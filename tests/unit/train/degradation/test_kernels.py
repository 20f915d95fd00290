"""Kernels against their formulas, evaluated once more by other means: scipy's Bessel function, explicit matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special

from sr_deploy.train.degradation.draws import KINDS, NONE, SINC, KernelDraw, draw_batch
from sr_deploy.train.degradation.kernels import find_sizes, make_kernels

CPU = torch.device("cpu")


def evaluate_formula(draw: KernelDraw, n: int, side: int) -> np.ndarray:
    size, kind = int(draw.size[n]), KINDS[draw.kind[n]]
    kernel = np.zeros((side, side))
    angle, beta, cutoff = (float(values[n]) for values in (draw.rotation, draw.beta, draw.cutoff))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    covariance = turn @ np.diag(draw.sigma[n] ** 2) @ turn.T
    for row in range(-(size // 2), size // 2 + 1):
        for column in range(-(size // 2), size // 2 + 1):
            place = np.array([column, row], dtype=float)
            form = place @ np.linalg.solve(covariance, place)
            radius = np.hypot(row, column)
            if kind == "none":
                value = float(radius == 0)
            elif kind == "sinc":
                at_0 = cutoff**2 / (4 * np.pi)
                value = at_0 if radius == 0 else cutoff / (2 * np.pi * radius) * special.j1(cutoff * radius)
            elif kind.startswith("plateau"):
                value = 1 / (1 + form**beta)
            else:
                value = np.exp(-0.5 * form**beta)
            kernel[side // 2 + row, side // 2 + column] = value
    return kernel / kernel.sum()


def test_kernels_of_every_kind_agree_with_their_formulas(random):
    count = 12 * len(KINDS)
    draw = KernelDraw(
        kind=np.arange(count) % len(KINDS),
        size=random.choice([7, 9, 11, 13, 15, 17, 19, 21], count),
        sigma=random.uniform(0.2, 3, (count, 2)),
        rotation=random.uniform(-np.pi, np.pi, count),
        beta=random.uniform(0.5, 4, count),
        cutoff=random.uniform(np.pi / 5, np.pi, count),
    )
    kernels = make_kernels(draw, 21, CPU)
    assert kernels.dtype == torch.float32
    for n in range(count):
        assert np.abs(kernels[n].numpy() - evaluate_formula(draw, n, 21)).max() < 1e-6, KINDS[draw.kind[n]]


def test_kernels_sum_to_one_and_are_padded_with_zeros(degradation):
    draw = draw_batch(degradation, 0, 0, 0, 200).stages[0].kernel
    kernels = make_kernels(draw, 21, CPU)
    assert torch.allclose(kernels.sum((1, 2)), torch.ones(200), atol=1e-6)
    assert torch.equal(kernels, kernels.flip(1, 2))
    for kernel, size in zip(kernels, draw.size, strict=True):
        edge = (21 - size) // 2
        inner = kernel[edge : 21 - edge, edge : 21 - edge].clone()
        assert torch.count_nonzero(kernel) == torch.count_nonzero(inner)


def test_sizes_hold_all_that_counts(degradation):
    draw = draw_batch(degradation, 0, 0, 0, 2000).stages[1].kernel
    sizes = find_sizes(draw)
    for kernel, size, own in zip(make_kernels(draw, 21, CPU).double(), sizes, draw.size, strict=True):
        edge = (21 - size) // 2
        outside = kernel.abs().sum() - kernel[edge : 21 - edge, edge : 21 - edge].abs().sum()
        assert outside < 1e-7
        assert size % 2 == 1
        assert size <= own
    assert (sizes[draw.kind == NONE] == 1).all()
    assert (sizes[draw.kind == SINC] == draw.size[draw.kind == SINC]).all()
    gaussian = draw.kind == KINDS.index("isotropic")
    assert sizes[gaussian].mean() < 0.8 * draw.size[gaussian].mean()  # as narrow as the second order has them


@pytest.mark.parametrize(("angle", "axis"), [(0.0, 1), (np.pi / 2, 0)])
def test_rotation_turns_the_long_axis(angle, axis):
    draw = KernelDraw(
        kind=np.array([KINDS.index("anisotropic")]),
        size=np.array([21]),
        sigma=np.array([[3.0, 0.5]]),
        rotation=np.array([angle]),
        beta=np.array([1.0]),
        cutoff=np.array([1.0]),
    )
    kernel = make_kernels(draw, 21, CPU)[0]
    line = torch.arange(-10.0, 11.0)
    spread = [(kernel.sum(1 - which) * line.square()).sum() for which in (0, 1)]
    assert spread[axis] > 4
    assert spread[1 - axis] < 1
