"""On which inputs an artifact is compared: shapes times contents, as many as its cost allows. No torch here.

Every shape is run at least once and so is every content; the shapes of the grid below with a photograph each, the
contents that are then missing on one of them, pure colors on a small one. What else of the product is run depends on
what it costs: the cheapest first, until a budget is spent. A small network so gets the whole product of the small
shapes, a large one little more than the covering. The best shape of each of the deployment's profiles is always run,
at any cost; others that cost too much are left out by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sr_deploy.backends import BackendChoice
from sr_deploy.backends.registry import get_backend
from sr_deploy.bundle import Profile, Shape
from sr_deploy.graph.scale import MAX_SIDE
from sr_deploy.verification.contents import PHOTOGRAPH, PURE, VARIED

# The plain case; primes find padding and index mistakes, one pixel high or wide finds kernels that look beyond both
# borders, the batch finds what is wrong across images. All small: each backend runs each of them.
SHAPES = (
    Shape(1, 64, 64),
    Shape(1, 37, 53),
    Shape(2, 48, 64),
    Shape(3, 9, 15),
    Shape(1, 41, 1),
    Shape(1, 1, 43),
)
# What goes wrong beyond some height, width or batch only is as wrong in a strip, and a strip costs next to nothing.
LONG_SIDE = 1031
LARGE_BATCH = 9
LARGE_INPUT = 2**20
"""Pixels, batch included, of an input that cannot be smaller, from which on little else is run."""
STRIPS = (Shape(1, 1, LONG_SIDE), Shape(1, LONG_SIDE, 1), Shape(1, 3, 521), Shape(1, 521, 3), Shape(LARGE_BATCH, 8, 8))
# For arithmetic that a CPU takes ten times as long for as for FP32 (`Backend.slow`).
SLOW_SHAPES = (Shape(1, 25, 31), Shape(2, 16, 24), Shape(1, 19, 1))
PURE_SHAPE = Shape(1, 16, 16)
"""Shape of inputs of one color."""

ONE_INPUT = 64e9
"""What one input with a profile's least or greatest shape may cost, in multiply-adds; a larger one is left out, and
that is said."""
EXTRA = 2e9
"""For inputs that no shape and no content needs, in multiply-adds."""
_PER_SAMPLE = 4000
"""What comparing one sample of an output costs, in multiply-adds."""
_SLOW = 10


@dataclass(frozen=True)
class Point:
    """One input."""

    shape: Shape
    """Batch, height and width."""
    content: str
    """One of `CONTENTS`."""

    def __str__(self) -> str:
        return f"{self.content} {self.shape}"


@dataclass(frozen=True)
class InputGrid:
    """The inputs for one backend."""

    points: tuple[Point, ...]
    left_out: tuple[str, ...] = ()
    """Shapes that are not, with the reason."""


@dataclass(frozen=True)
class Cost:
    """What one input pixel costs."""

    multiply_adds: float
    """Of the network, per input pixel."""
    samples: int
    """Of the output, per input pixel."""

    @property
    def in_all(self) -> float:
        """Computing and comparing, in multiply-adds."""
        return self.multiply_adds + _PER_SAMPLE * self.samples


def plan_grid(
    choice: BackendChoice,
    device: str,
    taken: Sequence[Profile],
    input_multiple: int,
    *,
    deployed: Sequence[Profile] = (),
    cost: Cost | None = None,
    max_pixels: float | None = None,
) -> InputGrid:
    """The inputs for one backend, brought to what it takes.

    Args:
        choice: backend and precision.
        device: where it runs.
        taken: shapes that it takes; none: any.
        input_multiple: of height and width; sides are rounded up to it.
        deployed: the shapes that the deployment is for; their least, best and greatest ones join the grid.
        cost: of one input pixel; None: unknown, and nothing beyond the covering of the small shapes is run.
        max_pixels: of an input, batch included, that the memory holds; None: unknown.
    """
    slow = device == "cpu" and choice.precision in get_backend(choice.backend).slow
    profiles = list(dict.fromkeys((*taken, *deployed)))
    # What cannot be smaller is large at every shape; a batch finds what is wrong across images by itself.
    least = _fit(PURE_SHAPE, taken, input_multiple)
    few = slow or least.n > LARGE_BATCH or _pixels(least) >= LARGE_INPUT
    small = [_fit(shape, taken, input_multiple) for shape in (SLOW_SHAPES if few else SHAPES)]
    shapes = list(dict.fromkeys(small))
    left_out = []
    for profile in profiles:
        for shape in (profile.min, profile.opt, profile.max):
            if MAX_SIDE in shape:  # which stands for any
                continue
            fitted = _fit(shape, taken, input_multiple)
            best = shape == profile.opt and not slow
            reason = _why_too_large(fitted, cost, max_pixels, slow=slow, best=best)
            if fitted in shapes:
                continue
            if reason is None:
                shapes.append(fitted)
            else:
                left_out.append(f"{fitted}: {reason}")
    once = [] if few else [Point(shape, PHOTOGRAPH) for shape in (*STRIPS, *_strip_profiles(profiles))]
    once += [Point(PURE_SHAPE, content) for content in PURE]
    fitted_once = (Point(_fit(point.shape, taken, input_multiple), point.content) for point in once)
    points = list(dict.fromkeys([*_cover(shapes), *fitted_once]))
    points += _afford(shapes, points, cost, slow=slow)
    return InputGrid(tuple(points), tuple(dict.fromkeys(left_out)))


def _strip_profiles(profiles: Sequence[Profile]) -> Iterator[Shape]:
    """The greatest sides and batches that a deployment is for, one at a time; `MAX_SIDE` stands for any."""
    for profile in profiles:
        n, h, w = profile.max
        if LONG_SIDE < w < MAX_SIDE:
            yield Shape(1, 1, w)
        if LONG_SIDE < h < MAX_SIDE:
            yield Shape(1, h, 1)
        if LARGE_BATCH < n < MAX_SIDE:
            yield Shape(n, 8, 8)


def _cover(shapes: Sequence[Shape]) -> Iterator[Point]:
    """Each shape with a photograph, and each other content on the second, which is small and has no round sides."""
    for shape in shapes:
        yield Point(shape, PHOTOGRAPH)
    for content in VARIED:
        yield Point(shapes[min(1, len(shapes) - 1)], content)


def _afford(shapes: Sequence[Shape], have: Sequence[Point], cost: Cost | None, *, slow: bool) -> list[Point]:
    """What else of the product fits into the budget, the cheapest first."""
    if cost is None:
        return []
    budget = EXTRA / _SLOW if slow else EXTRA
    more: list[Point] = []
    for shape in sorted(shapes, key=_pixels):
        for content in VARIED:
            point = Point(shape, content)
            budget -= 0 if point in have else _pixels(shape) * cost.in_all
            if budget < 0:
                return more
            if point not in have:
                more.append(point)
    return more


def _why_too_large(shape: Shape, cost: Cost | None, max_pixels: float | None, *, slow: bool, best: bool) -> str | None:
    if cost is None:
        return "what the graph costs is unknown, so it may be too large to be run here"
    if max_pixels is not None and _pixels(shape) > max_pixels:
        return f"the memory that is free here holds {max_pixels:.0f} input pixels, and it has {_pixels(shape)}"
    work = _pixels(shape) * cost.in_all
    limit = ONE_INPUT / _SLOW if slow else ONE_INPUT
    if work <= limit or best:
        return None
    return f"takes the time of {work / 1e9:.0f} billion multiply-adds, and one input may take {limit / 1e9:.0f} here"


def _pixels(shape: Shape) -> int:
    return shape.n * shape.h * shape.w


def _fit(shape: Shape, profiles: Sequence[Profile], multiple: int) -> Shape:
    """What is taken and nearest to a shape; where a fixed side would make it large, the other one is reduced."""
    rounded = _round_up(shape, multiple)
    if not profiles:
        return rounded
    fitted = _nearest(rounded, profiles, multiple)
    grown = _pixels(fitted) // _pixels(rounded)
    if grown <= 1 or _pixels(fitted) < LARGE_INPUT:
        return fitted
    narrow = Shape(rounded.n, max(1, rounded.h // grown), max(1, rounded.w // grown))
    return _nearest(_round_up(narrow, multiple), profiles, multiple)


def _round_up(shape: Shape, multiple: int) -> Shape:
    return Shape(shape.n, -(-shape.h // multiple) * multiple, -(-shape.w // multiple) * multiple)


def _nearest(shape: Shape, profiles: Sequence[Profile], multiple: int) -> Shape:
    """`shape` itself if a profile holds it, else what the first profile has nearest to it."""
    if any(profile.contains(shape) for profile in profiles):
        return shape
    first = profiles[0]
    clamped = (min(max(side, low), high) for low, side, high in zip(first.min, shape, first.max, strict=True))
    return _round_up(Shape(*clamped), multiple)
