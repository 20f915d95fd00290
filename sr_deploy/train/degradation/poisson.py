"""Poisson noise of 8-bit levels, by table.

torch draws Poisson numbers one after another on the CPU. Here an image has at most 256 levels and nine possible scales,
so all its distributions fit into a table for Walker's alias method (1977): one uniform number and two look-ups give an
exact draw, on any device.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_LEVELS = 256
_MAX_EXPONENT = 8  # 2^8 levels are all there are
_OUTCOMES = 256  # at a mean of 256, 8 standard deviations to each side
_BEFORE = 120  # outcomes below the mean
_ROWS_APART = 16  # of those in which levels are looked for first


def draw_poisson_noise(levels_NCHW: Tensor, generator: torch.Generator) -> Tensor:
    """What Poisson noise adds to images: Poisson(x v) / v - x, where x is the image in [0, 1].

    v is the number of distinct levels in the sample, rounded up to a power of two, as in Real-ESRGAN's code.

    Args:
        levels_NCHW: whole levels of 0 to 255, float32; C = 1 or 3.
        generator: on the same device.
    """
    count = len(levels_NCHW)
    device = levels_NCHW.device
    exponents = _find_exponents(levels_NCHW)
    share, outcomes = _alias_tables(device)
    number = torch.empty_like(levels_NCHW).uniform_(generator=generator).mul_(_OUTCOMES)
    column = number.floor()
    number -= column  # what is left decides between the column's outcome and its alias
    first_N = (exponents * (_LEVELS * _OUTCOMES)).view(count, 1, 1, 1)
    # Integers below 2^24 are exact in float32.
    place = torch.add(column, levels_NCHW, alpha=_OUTCOMES).add_(first_N).to(torch.int32)
    alias = number >= _take(share, place)
    return _take(outcomes, place.mul_(2).add_(alias))


def _take(table: Tensor, indices: Tensor) -> Tensor:
    # On the CPU index_select with 32-bit places moves a third of the bytes of indexing with 64-bit ones.
    return table.index_select(0, indices.view(-1)).view(indices.shape)


def _find_exponents(levels_NCHW: Tensor) -> Tensor:
    """ceil(log2(number of distinct levels)) of each sample, float32.

    More than half of all levels, as nearly every photograph has, show in a few rows; others are counted whole. A GPU
    counts all: asking it would wait for all of its work.
    """
    if levels_NCHW.device.type != "cpu":
        return _count_exponents(levels_NCHW)
    exponents = _count_exponents(levels_NCHW[:, :, ::_ROWS_APART])
    unsure = (exponents < _MAX_EXPONENT).nonzero()[:, 0]
    if len(unsure):
        exponents[unsure] = _count_exponents(levels_NCHW[unsure])
    return exponents


def _count_exponents(levels_NCHW: Tensor) -> Tensor:
    """The same, by counting every pixel."""
    count = len(levels_NCHW)
    samples = torch.arange(count, device=levels_NCHW.device).view(count, 1, 1, 1) * _LEVELS
    present = torch.zeros(count * _LEVELS, dtype=torch.bool, device=levels_NCHW.device)
    present.index_fill_(0, (levels_NCHW + samples).long().flatten(), True)
    return present.view(count, _LEVELS).sum(dim=1).float().log2().ceil()


@lru_cache(maxsize=8)
def _alias_tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """For each exponent, level and column: the column's share, and the noise of (column, alias)."""
    exponents, levels = np.meshgrid(np.arange(_MAX_EXPONENT + 1), np.arange(_LEVELS), indexing="ij")
    scale = np.exp2(exponents.ravel())
    level = levels.ravel() / 255
    mean = level * scale
    lowest = np.maximum(np.floor(mean) - _BEFORE, 0)
    share, alias = build_alias_tables(_poisson_probabilities(mean, lowest))
    outcome = lowest[:, None, None] + np.stack([np.broadcast_to(np.arange(_OUTCOMES), alias.shape), alias], axis=-1)
    noise = outcome / scale[:, None, None] - level[:, None, None]
    return tuple(torch.from_numpy(part.astype(np.float32).ravel()).to(device) for part in (share, noise))  # type: ignore[return-value]


def _poisson_probabilities(mean: NDArray[np.float64], lowest: NDArray[np.float64]) -> NDArray[np.float64]:
    """R x outcomes: of `lowest`, `lowest` + 1 and so on; what lies beyond is below 1e-12."""
    outcome = lowest[:, None] + np.arange(_OUTCOMES)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, 2 * _LEVELS + _OUTCOMES)))])
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithm = outcome * np.log(mean)[:, None] - mean[:, None] - log_factorial[outcome.astype(np.int64)]
    logarithm[mean == 0] = -np.inf
    logarithm[mean == 0, 0] = 0.0
    probability = np.exp(logarithm)
    normalized: NDArray[np.float64] = probability / probability.sum(axis=1, keepdims=True)
    return normalized


def build_alias_tables(probability_RK: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Walker's tables of many distributions at once.

    Column k of a row keeps its outcome k with the share that is returned, and gives its alias otherwise; all columns
    are equally likely.

    Returns:
        R x K: shares in [0, 1]; R x K: aliases.
    """
    weight = probability_RK * probability_RK.shape[1]
    rows, columns = weight.shape
    at = np.arange(rows)
    # Columns that lack weight first, those with too much behind them, each in order.
    order = np.argsort(weight > 1, axis=1, kind="stable")
    small, large = np.zeros(rows, np.int64), (weight <= 1).sum(axis=1)
    many = large.copy()
    share, alias = np.ones_like(weight), np.tile(np.arange(columns), (rows, 1))
    giving = order[at, np.minimum(large, columns - 1)]
    rest = weight[at, giving]
    # Each turn settles one column of each row: one that lacks weight, filled by the giver, or the giver itself once
    # it has come below 1, filled by the next one.
    for _ in range(columns):
        used_up = rest <= 1
        lacking = order[at, np.minimum(small, columns - 1)]
        following = order[at, np.minimum(large + 1, columns - 1)]
        settles = used_up & (large + 1 < columns)
        fills = ~used_up & (small < many)
        column, kept = np.where(settles, giving, lacking), np.where(settles, rest, weight[at, lacking])
        donor = np.where(settles, following, giving)
        active = settles | fills
        share[at[active], column[active]] = kept[active]
        alias[at[active], column[active]] = donor[active]
        rest = np.where(settles, weight[at, following] - (1 - rest), np.where(fills, rest - (1 - kept), rest))
        small, large = small + fills, large + settles
        giving = np.where(settles, following, giving)
    return share, alias
