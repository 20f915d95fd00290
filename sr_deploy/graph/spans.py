"""What each axis of a tensor sees of the image: the values that `reach` carries from node to node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

    from sr_deploy.graph.shapes import InferredShapes

_NOTHING_LOW, _NOTHING_HIGH = 1 << 40, -(1 << 40)


_MOST_WORK = 2**28
"""Indices that are looked at for one graph: fifteen times those of RRDBNet with 23 blocks on its largest picture."""


class UnknownReachError(Exception):
    """A node mixes pixels in a way that is not followed: attention, statistics over the image, unknown operators."""


class Budget:
    """What following a graph may cost: windows of a million taps are written in a few bytes."""

    def __init__(self) -> None:
        self._left = _MOST_WORK

    def spend(self, indices: int) -> None:
        """Before so many indices are looked at.

        Raises:
            UnknownReachError: there were too many.
        """
        self._left -= indices
        if self._left < 0:
            raise UnknownReachError("there is too much to follow")


@dataclass(frozen=True)
class Span:
    """What one axis of a tensor depends on."""

    side: int
    """2 for the height of the input, 3 for its width."""
    low: NDArray[np.int64]
    """Lowest input index, for each index of the axis."""
    high: NDArray[np.int64]
    """Highest input index; below `low` where nothing of the image is seen."""


Spans = tuple[Span | None, ...]
"""One for each axis of a tensor; None where all of its indices see the same."""


@dataclass(frozen=True)
class Step:
    """A node and what is known around it."""

    node: NodeProto
    known: dict[str, Spans]
    shapes: InferredShapes
    budget: Budget

    def spans(self, index: int = 0) -> Spans:
        """Spans of an input that depends on the image."""
        name = self.node.input[index]
        if name not in self.known:
            raise UnknownReachError(f"{self.node.op_type} takes the image where a constant is expected")
        return self.known[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        shape = self.shapes.shape(name)
        if shape is None:
            raise UnknownReachError(f"the shape of {name!r} is unknown")
        return shape

    def constant(self, index: int) -> NDArray[np.generic] | None:
        """Value of an optional constant input."""
        if index >= len(self.node.input) or not self.node.input[index]:
            return None
        name = self.node.input[index]
        if name not in self.shapes.constants:
            raise UnknownReachError(f"{self.node.op_type} takes {name!r}, which is not constant")
        return self.shapes.constants[name]


def pick(span: Span, taps: Sequence[NDArray[np.int64]]) -> Span:
    """A span whose index o sees what the indices `taps[k][o]` of `span` see; a tap outside sees nothing."""
    length = len(span.low)
    low = np.full(len(taps[0]), _NOTHING_LOW)
    high = np.full(len(taps[0]), _NOTHING_HIGH)
    for tap in taps:
        inside = (tap >= 0) & (tap < length)
        safe = np.where(inside, tap, 0)
        low = np.minimum(low, np.where(inside, span.low[safe], _NOTHING_LOW))
        high = np.maximum(high, np.where(inside, span.high[safe], _NOTHING_HIGH))
    return Span(span.side, low, high)


def unite(first: Span | None, second: Span | None) -> Span | None:
    """What two tensors of the same size see together.

    Raises:
        UnknownReachError: they follow different sides of the image.
    """
    if first is None or second is None:
        return first or second
    if first.side != second.side or len(first.low) != len(second.low):
        raise UnknownReachError("height and width are mixed")
    return Span(first.side, np.minimum(first.low, second.low), np.maximum(first.high, second.high))


def see_nothing(side: int, length: int) -> Span:
    """The span of an axis of which nothing depends on the image."""
    return Span(side, np.full(length, _NOTHING_LOW), np.full(length, _NOTHING_HIGH))
