"""The receptive field of each axis of a tensor: what `propagate_fields` carries from node to node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

    from sr_deploy.graph.shapes import InferredShapes

_NOTHING_LOW, _NOTHING_HIGH = 1 << 40, -(1 << 40)


_MAX_INDICES = 2**28
"""Indices that are computed for one graph: fifteen times those of RRDBNet with 23 blocks on its largest image."""


class UnknownReceptiveFieldError(Exception):
    """The receptive field of a node is not known: attention, statistics over the image, unknown operators."""


class Budget:
    """Limits the work that one graph may cause: kernels of a million taps are written in a few bytes."""

    def __init__(self) -> None:
        self._left = _MAX_INDICES

    def spend(self, indices: int) -> None:
        """Count `indices` that are about to be computed.

        Raises:
            UnknownReceptiveFieldError: more than the limit in all.
        """
        self._left -= indices
        if self._left < 0:
            raise UnknownReceptiveFieldError("the graph has too many indices")


@dataclass(frozen=True)
class AxisField:
    """The receptive field along one axis of a tensor."""

    image_axis: int
    """2 for the height of the input, 3 for its width."""
    low: NDArray[np.int64]
    """Lowest input index that each index of the axis depends on."""
    high: NDArray[np.int64]
    """Highest one; below `low` where there is no dependence on the image."""

    @cached_property
    def is_sorted(self) -> bool:
        """Whether neither end ever falls from one index to the next, as where nothing but windows were moved."""
        return bool((np.diff(self.low) >= 0).all() and (np.diff(self.high) >= 0).all())


AxisFields = tuple[AxisField | None, ...]
"""One for each axis of a tensor; None where all indices have the same receptive field."""


@dataclass(frozen=True)
class NodeContext:
    """A node and what is known around it."""

    node: NodeProto
    known: dict[str, AxisFields]
    shapes: InferredShapes
    budget: Budget

    def fields(self, index: int = 0) -> AxisFields:
        """Receptive fields of the input number `index`, which depends on the image."""
        name = self.node.input[index]
        if name not in self.known:
            raise UnknownReceptiveFieldError(f"{self.node.op_type} takes the image where a constant is expected")
        return self.known[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        shape = self.shapes.shape(name)
        if shape is None:
            raise UnknownReceptiveFieldError(f"the shape of {name!r} is unknown")
        return shape

    def constant(self, index: int) -> NDArray[np.generic] | None:
        """Value of an optional constant input."""
        if index >= len(self.node.input) or not self.node.input[index]:
            return None
        name = self.node.input[index]
        if name not in self.shapes.constants:
            raise UnknownReceptiveFieldError(f"{self.node.op_type} takes {name!r}, which is not constant")
        return self.shapes.constants[name]


def gather(field: AxisField, taps: Sequence[NDArray[np.int64]]) -> AxisField:
    """A field whose index o is the union over k of `field` at index `taps[k][o]`; taps outside add nothing."""
    length = len(field.low)
    low = np.full(len(taps[0]), _NOTHING_LOW)
    high = np.full(len(taps[0]), _NOTHING_HIGH)
    for tap in taps:
        inside = (tap >= 0) & (tap < length)
        safe = np.where(inside, tap, 0)
        low = np.minimum(low, np.where(inside, field.low[safe], _NOTHING_LOW))
        high = np.maximum(high, np.where(inside, field.high[safe], _NOTHING_HIGH))
    return AxisField(field.image_axis, low, high)


def gather_window(field: AxisField, first: NDArray[np.int64], kernel: int, dilation: int = 1) -> AxisField:
    """As `gather`, for the taps `first`, `first + dilation`, ...; of a sorted field only the outermost are read."""
    lowest = -(np.minimum(first, 0) // dilation)
    highest = np.minimum((len(field.low) - 1 - first) // dilation, kernel - 1)
    if not field.is_sorted or (lowest > highest).any():
        return gather(field, [first + tap * dilation for tap in range(kernel)])
    return AxisField(field.image_axis, field.low[first + lowest * dilation], field.high[first + highest * dilation])


def union(first: AxisField | None, second: AxisField | None) -> AxisField | None:
    """The union of the receptive fields of two axes of equal length.

    Raises:
        UnknownReceptiveFieldError: one follows the image's height, the other its width.
    """
    if first is None or second is None:
        return first or second
    if first.image_axis != second.image_axis or len(first.low) != len(second.low):
        raise UnknownReceptiveFieldError("height and width are mixed")
    return AxisField(first.image_axis, np.minimum(first.low, second.low), np.maximum(first.high, second.high))


def make_empty(image_axis: int, length: int) -> AxisField:
    """The field of an axis that does not depend on the image."""
    return AxisField(image_axis, np.full(length, _NOTHING_LOW), np.full(length, _NOTHING_HIGH))
