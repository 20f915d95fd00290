"""Samples that are treated alike, together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Places = NDArray[np.int64]
"""Numbers of samples within the batch, on the host."""


def map_groups(
    work: Callable[[Tensor, Places], Tensor], images_NCHW: Tensor, keys_N: NDArray[np.int64] | NDArray[np.bool_]
) -> Tensor:
    """`work` of the samples of each key in turn, put together in the order that they had.

    `work` keeps the shape of the images, and leaves those that it gets as they are. The keys are on the host: asking a
    GPU for them would wait for all of its work.
    """
    groups = [np.flatnonzero(keys_N == key) for key in np.unique(keys_N)]
    if len(groups) == 1:
        return work(images_NCHW, groups[0])
    together = images_NCHW.new_empty(images_NCHW.shape)
    for places in groups:
        done = work(take_places(images_NCHW, places), places)
        if _are_neighbours(places):
            together[places[0] : places[-1] + 1] = done
        else:
            together.index_copy_(0, torch.from_numpy(places).to(done.device), done)
    return together


def take_places(values: Tensor, places: Places) -> Tensor:
    """Some samples of a tensor; without a copy where they lie side by side."""
    if _are_neighbours(places):
        return values[places[0] : places[-1] + 1]
    return values.index_select(0, torch.from_numpy(places).to(values.device))


def _are_neighbours(places: Places) -> bool:
    return int(places[-1] - places[0]) == len(places) - 1
