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

    The keys are on the host: asking a GPU for them would wait for all of its work.
    """
    groups = [np.flatnonzero(keys_N == key) for key in np.unique(keys_N)]
    if len(groups) == 1:
        return work(images_NCHW, groups[0])
    done = torch.cat([work(take_places(images_NCHW, places), places) for places in groups])
    return take_places(done, np.argsort(np.concatenate(groups)))


def take_places(values: Tensor, places: Places) -> Tensor:
    """Some samples of a tensor, as a copy."""
    return values.index_select(0, torch.from_numpy(places).to(values.device))
