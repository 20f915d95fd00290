"""Scale, input multiple and smallest side of a graph, from the shapes of its output for inputs of several sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sr_deploy.errors import GraphError

MAX_SIDE = 65536
"""Longest side of an input, and largest batch."""
MAX_FIXED_SIDE = 16384
"""The same where a graph takes no other."""
MAX_FIXED_PIXELS = 16_000_000
"""Of an input where a graph takes none that is smaller: a picture of 4K is half of it."""
LARGE_SIDE = 384
MULTIPLES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)
"""Input multiples that are looked for; each divides the side above."""
# Sides that share no factor with each other or with the multiples tried, so that only the multiple decides.
ODD_SIDES = (7, 11)
_SMALLEST = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 48, 64)

Infer = Callable[[int, int], tuple[int, ...] | None]
"""From height and width of an input to the shape of the output, N x C x H x W; None where it does not run."""


@dataclass(frozen=True)
class Scale:
    """How the sides of outputs follow from those of inputs."""

    scale: int
    """Output pixels per input pixel along each side."""
    multiple: int
    """Height and width must be multiples of this."""
    smallest: int
    """And at least this."""


def measure_scale(
    path: object,
    infer: Infer,
    declared: tuple[int | None, ...],
    *,
    large: tuple[int, int] = (LARGE_SIDE, 2 * LARGE_SIDE),
    limited: bool = False,
) -> Scale:
    """Find them.

    Args:
        path: for messages.
        infer: gives the output's shape.
        declared: N, C, H and W of the input; None where any is taken.
        large: height and width that the scale is found with.
        limited: look for the smallest side too; else it is taken for the multiple.

    Raises:
        GraphError: the output is not an image, larger by the same integer along both sides.
    """
    _, channels, fixed_h, fixed_w = declared
    h, w = fixed_h or large[0], fixed_w or large[1]
    output = infer(h, w)
    if output is None:
        raise GraphError(f"{path}: the shape of its output cannot be inferred, so its scale is unknown")
    if len(output) != 4 or output[1] != channels:
        shown = " x ".join(map(str, output))
        raise GraphError(f"{path}: its output has shape {shown}; an image of {channels} channels is needed")
    scale, rest = divmod(output[2], h)
    if rest or not scale or output[3] != w * scale:
        raise GraphError(
            f"{path}: an input of {h} x {w} gives an output of {output[2]} x {output[3]}; both sides must grow by the "
            "same integer"
        )
    if fixed_h and fixed_w:
        return Scale(scale, 1, 1)

    def runs(tall: int, wide: int) -> bool:
        spatial_dims = fixed_h or tall, fixed_w or wide
        found = infer(*spatial_dims)
        return found is not None and found[2:] == (spatial_dims[0] * scale, spatial_dims[1] * scale)

    multiple = next((one for one in MULTIPLES if runs(one * ODD_SIDES[0], one * ODD_SIDES[1])), None)
    if multiple is None:
        raise GraphError(f"{path}: no input side up to {MULTIPLES[-1]} gives an output of {scale} times its size")
    times = next((one for one in _SMALLEST if runs(one * multiple, one * multiple)), 1) if limited else 1
    return Scale(scale, multiple, times * multiple)
