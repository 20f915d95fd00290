"""The layers that have to stay float so that the loss fits the budget.

Every candidate is quantised alone and its error against FP32 measured. They are then left out one by one, the greatest
error per multiply-add first: along this line the error against FP32 falls steadily, while the drop against ground truth
goes up and down (errors of layers can cancel). So a point counts as within the budget only if every point measured
further along does too: a lucky one amid others that fail is not taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sr_deploy.export.int8.options import Int8Options
from sr_deploy.export.int8.placement import Candidate
from sr_deploy.export.int8.quality import Loss


@dataclass(frozen=True)
class Point:
    """One step of the search."""

    kept: tuple[str, ...]
    """Candidates that stay float, in the order in which they are left out."""
    share: float
    """Share of the multiply-adds in INT8, 0 to 1."""
    loss: Loss
    """On held-out crops."""
    search_psnr_db: float
    """PSNR against FP32 on the crops that layers are ranked on."""

    def fits(self, options: Int8Options) -> bool:
        """Whether it is within the budget."""
        return is_within(self.loss, options)


def is_within(loss: Loss, options: Int8Options) -> bool:
    """Whether a loss is within the budget; a figure that is no number is not."""
    return loss.drop_db <= options.max_drop_db and loss.max_abs <= options.max_pixel_error


@dataclass(frozen=True)
class SearchResult:
    """All that was measured."""

    points: tuple[Point, ...]
    """From all candidates quantised to the fewest, in that order."""
    chosen: Point | None
    """The point with the greatest share that is within the budget and stays so; None: there is none."""


def rank_candidates(candidates: Sequence[Candidate], errors: Mapping[str, float]) -> tuple[Candidate, ...]:
    """By error per multiply-add, greatest first; equal ones in the graph's order."""
    order = {candidate.name: place for place, candidate in enumerate(candidates)}
    return tuple(sorted(candidates, key=lambda one: (-errors[one.name] / max(one.share, 1e-12), order[one.name])))


def search_share(
    ranked: Sequence[Candidate],
    measure: Callable[[Sequence[Candidate]], Point],
    options: Int8Options,
    on_point: Callable[[Point], None] | None = None,
) -> SearchResult:
    """Find the fewest candidates to leave out.

    Args:
        ranked: those to leave out first come first; at least one.
        measure: the point at which these candidates are left out.
        options: the budget, and how many points the curve has.
        on_point: told of each point that was measured.
    """
    measured: dict[int, Point] = {}

    def look(count: int) -> Point:
        if count not in measured:
            measured[count] = measure(ranked[:count])
            if on_point is not None:
                on_point(measured[count])
        return measured[count]

    last = _last_count(ranked, options.min_share)
    steps = min(options.curve_points, last + 1)
    grid = sorted({round(last * step / max(steps - 1, 1)) for step in range(steps)})
    first_good = None
    for count in grid:
        look(count)
    for count in reversed(grid):
        if not measured[count].fits(options):
            break
        first_good = count
    if first_good is not None:
        too_few = max((count for count in grid if count < first_good), default=-1)
        while first_good - too_few > 1:
            middle = (first_good + too_few) // 2
            if look(middle).fits(options):
                first_good = middle
            else:
                too_few = middle
    points = tuple(measured[count] for count in sorted(measured))
    return SearchResult(points, None if first_good is None else measured[first_good])


def _last_count(ranked: Sequence[Candidate], min_share: float) -> int:
    """As many as can be left out while that share is still INT8; 0 if it is less even with all."""
    left = sum(candidate.share for candidate in ranked)
    count = 0
    while count < len(ranked) - 1 and left - ranked[count].share >= min_share:
        left -= ranked[count].share
        count += 1
    return count
