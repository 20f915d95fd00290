"""Samples that are treated alike, together."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def map_groups(
    work: Callable[[Tensor, slice], Tensor], images_NCHW: Tensor, keys_N: NDArray[np.int64] | NDArray[np.bool_]
) -> Tensor:
    """`work` of each run of samples with the same key, put together in their order.

    `work` gets the samples and where they are within the batch. It keeps the shape of the images, or gives one channel
    that stands for all, and leaves what it gets as it is. The keys are on the host: asking a GPU for them would wait
    for all of its work. Samples of one key that do not lie side by side are done one after another: gathering them
    takes a CPU longer.
    """
    edges = [0, *(np.flatnonzero(keys_N[1:] != keys_N[:-1]) + 1).tolist(), len(keys_N)]
    runs = [slice(first, end) for first, end in pairwise(edges)]
    if len(runs) == 1:
        return work(images_NCHW, runs[0])
    joined = images_NCHW.new_empty(images_NCHW.shape)
    for run in runs:
        joined[run] = work(images_NCHW[run], run)
    return joined
