"""Networks made ready for export: what is exact to merge is merged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@runtime_checkable
class Mergeable(Protocol):
    """A network whose convolutions have branches while it is trained, which compute what one convolution computes."""

    def merge_branches(self) -> None:
        """Make one convolution of each, in place."""
        ...


@runtime_checkable
class Foldable(Protocol):
    """A network with layers that can be merged into their neighbors without changing what it computes."""

    def fold(self) -> None:
        """Merge them, in place. For evaluation only: the result is not trained further."""
        ...


def merge_branches(network: nn.Module) -> nn.Module:
    """`network` itself, as it is used rather than trained: with one convolution for each that has branches."""
    if isinstance(network, Mergeable):
        network.merge_branches()
    return network


def replace_modules(network: nn.Module, kind: type[ModuleT], make: Callable[[ModuleT], nn.Module]) -> None:
    """Put what `make` gives in the place of each module of that kind, which keeps its name."""
    for name, module in list(network.named_modules()):
        if isinstance(module, kind):
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, make(module))


def fold_for_export(network: nn.Module) -> nn.Module:
    """A copy of `network` in evaluation mode; branches, batch normalization and pixel-unshuffle become convolutions.

    Batch normalization needs its own kernels and its own rounding in half precision, and a pixel-unshuffle exports as
    shape arithmetic. Networks that have neither are only copied.
    """
    folded = merge_branches(copy.deepcopy(network).eval().requires_grad_(False))
    if isinstance(folded, Foldable):
        folded.fold()
    return folded.requires_grad_(False)
