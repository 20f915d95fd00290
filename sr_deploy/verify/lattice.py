"""On which inputs an artefact is compared: a small one, an odd one, a batch. No torch here."""

from __future__ import annotations

from collections.abc import Sequence

from sr_deploy.backends import BackendChoice
from sr_deploy.bundle import Profile, Shape

CONTENT = "photograph"
# The odd sides find padding and index mistakes, the batch finds what is wrong across images, the square is the plain
# case. All small: each backend runs each of them, and FP32 PyTorch too.
LATTICE = (Shape(1, 64, 64), Shape(1, 37, 53), Shape(2, 48, 64))
# PyTorch's true half convolutions on a CPU take ten times as long as FP32 ones (measured).
SMALL_LATTICE = (Shape(1, 25, 31), Shape(2, 16, 24))


def lattice_for(choice: BackendChoice, device: str, profiles: Sequence[Profile], input_multiple: int) -> list[Shape]:
    """The inputs for one backend, brought to what it takes.

    Args:
        choice: backend and precision.
        device: where it runs.
        profiles: shapes that it takes; none: any.
        input_multiple: of height and width; sides are rounded up to it.

    Returns:
        Shapes without repetition.
    """
    true_half_on_cpu = choice == BackendChoice("torch", "fp16") and device == "cpu"
    wanted = [_round_up(shape, input_multiple) for shape in (SMALL_LATTICE if true_half_on_cpu else LATTICE)]
    if profiles:
        wanted = [_nearest(shape, profiles, input_multiple) for shape in wanted]
    return list(dict.fromkeys(wanted))


def _round_up(shape: Shape, multiple: int) -> Shape:
    return Shape(shape.n, -(-shape.h // multiple) * multiple, -(-shape.w // multiple) * multiple)


def _nearest(shape: Shape, profiles: Sequence[Profile], multiple: int) -> Shape:
    """`shape` itself if a profile holds it, else what the first profile has nearest to it."""
    if any(profile.contains(shape) for profile in profiles):
        return shape
    first = profiles[0]
    clamped = (min(max(side, low), high) for low, side, high in zip(first.min, shape, first.max, strict=True))
    return _round_up(Shape(*clamped), multiple)
