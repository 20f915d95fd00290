"""Blur kernels of all samples at once, from their parameters.

Formulas: Real-ESRGAN (Wang et al. 2021), sections 3.1 and 3.4. C is the position of a pixel from the center, S the
covariance R diag(sigma_1^2, sigma_2^2) R^T. Everything is evaluated in double precision: it is little work, and what
leaves here is exact to the last bits of FP32.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sr_deploy.train.degradation.draws import KINDS, NONE, SINC, KernelDraw

_FIRST_PLATEAU = KINDS.index("plateau isotropic")
_NOTHING = 20.0  # exp(-20) of the peak, 2e-9, is left out of a convolution


def make_kernels(draw: KernelDraw, side: int, device: torch.device) -> Tensor:
    """N x side x side, float32: each normalized to sum 1, on a common grid, zero outside of its own size.

    Args:
        draw: N kernels.
        side: of the grid, odd, at least the greatest size.
        device: where they go.
    """
    reach = side // 2
    axis = torch.arange(-reach, reach + 1, dtype=torch.float64, device=device)
    y, x = axis[None, :, None], axis[None, None, :]
    kind = _column(draw.kind, device)
    values = torch.where(kind == SINC, _sinc(draw, x, y), _gaussian(draw, x, y, kind >= _FIRST_PLATEAU))
    half = _column((draw.size - 1) // 2, device)
    values = torch.where((x.abs() <= half) & (y.abs() <= half), values, 0.0)
    values = torch.where(kind == NONE, ((x == 0) & (y == 0)).to(values.dtype), values)
    return (values / values.sum(dim=(1, 2), keepdim=True)).float()


def find_sizes(draw: KernelDraw) -> NDArray[np.int64]:
    """N: side of what counts of each kernel, 1 where there is none; less than its own for narrow Gaussians.

    What is left out is less than 1e-7 of the sum.
    """
    reach = np.floor(draw.sigma.max(axis=1) * (2 * _NOTHING) ** (0.5 / draw.beta)).astype(np.int64)
    tapering = (draw.kind > SINC) & (draw.kind < _FIRST_PLATEAU)
    sizes = np.where(tapering, np.minimum(draw.size, 2 * reach + 1), draw.size)
    return np.where(draw.kind == NONE, 1, sizes)


def _gaussian(draw: KernelDraw, x: Tensor, y: Tensor, plateau: Tensor) -> Tensor:
    """exp(-1/2 (C^T S^-1 C)^beta), or 1 / (1 + (C^T S^-1 C)^beta) for plateaus."""
    device = x.device
    cosine, sine = _column(np.cos(draw.rotation), device), _column(np.sin(draw.rotation), device)
    along = (cosine * x + sine * y) / _column(draw.sigma[:, 0], device)
    across = (cosine * y - sine * x) / _column(draw.sigma[:, 1], device)
    power = (along.square() + across.square()) ** _column(draw.beta, device)
    return torch.where(plateau, 1 / (1 + power), torch.exp(-0.5 * power))


def _sinc(draw: KernelDraw, x: Tensor, y: Tensor) -> Tensor:
    """The ideal circular low-pass filter: w / (2 pi r) J1(w r), and its limit w^2 / (4 pi) in the center."""
    cutoff = _column(draw.cutoff, x.device)
    radius = (x.square() + y.square()).sqrt()
    away = radius.clamp(min=1.0)  # the center is replaced below
    ring = cutoff * torch.special.bessel_j1(cutoff * away) / (2 * torch.pi * away)
    return torch.where(radius == 0, cutoff.square() / (4 * torch.pi), ring)


def _column(values: NDArray[np.float64] | NDArray[np.int64], device: torch.device) -> Tensor:
    """N x 1 x 1, float64."""
    return torch.from_numpy(values.astype(np.float64)).to(device)[:, None, None]
