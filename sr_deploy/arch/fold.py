"""Networks made ready for export: what is exact to merge is merged."""

from __future__ import annotations

import copy
from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class Foldable(Protocol):
    """A network with layers that can be merged into their neighbors without changing what it computes."""

    def fold(self) -> None:
        """Merge them, in place. For evaluation only: the result is not trained further."""
        ...


def fold_for_export(network: nn.Module) -> nn.Module:
    """A copy of `network` in evaluation mode with batch normalization and pixel-unshuffle merged into convolutions.

    Batch normalization needs its own kernels and its own rounding in half precision, and a pixel-unshuffle exports as
    shape arithmetic. Networks that have neither are only copied.
    """
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    if isinstance(folded, Foldable):
        folded.fold()
    return folded.requires_grad_(False)
