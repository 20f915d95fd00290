"""The layers that have to stay float so that the loss fits the budget.

It begins with all candidates in INT8. Where that loses too much, those are left out that cost the most for each
multiply-add (`sensitivity`), 1, 2, 4 and so on, until the rest is within the budget, and the number is then closed in
on by halves. What is within the budget is said by the upper end of an interval, so that chance does not decide it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sr_deploy.export.int8.placement import Candidate
from sr_deploy.export.int8.quantization_loss import Loss
from sr_deploy.export.int8.quantization_options import Int8Options


@dataclass(frozen=True)
class Point:
    """One step of the search."""

    kept: tuple[str, ...]
    """Candidates that stay float, in the order in which they are left out."""
    share: float
    """Share of the multiply-adds in INT8, 0 to 1."""
    loss: Loss
    """Measured on held-out crops."""

    def fits(self, options: Int8Options) -> bool:
        """Whether it is within the budget."""
        return is_within(self.loss, options)


def is_within(loss: Loss, options: Int8Options) -> bool:
    """Whether a loss is within the budget; NaN is not."""
    return loss.upper_db <= options.max_drop_db and loss.visible <= options.max_pixel_error


@dataclass(frozen=True)
class SearchResult:
    """All that was measured."""

    points: tuple[Point, ...]
    """From all candidates quantized to the fewest, in that order."""
    chosen: Point | None
    """The one within the budget with the fewest candidates left out; None: there is none."""


def rank_candidates(candidates: Sequence[Candidate], errors: Mapping[str, float]) -> tuple[Candidate, ...]:
    """By error per multiply-add, greatest first; equal ones in the graph's order."""
    order = {candidate.name: place for place, candidate in enumerate(candidates)}
    return tuple(sorted(candidates, key=lambda one: (-errors[one.name] / max(one.share, 1e-12), order[one.name])))


def search_share(
    ranked: Sequence[Candidate],
    measure: Callable[[Sequence[Candidate]], Point],
    options: Int8Options,
) -> SearchResult:
    """Find the fewest candidates to leave out.

    Args:
        ranked: those to leave out first come first; at least one.
        measure: the point at which these candidates are left out.
        options: the budget, and how many points the curve has at least where there are as many.
    """
    measured: dict[int, Point] = {}

    def fits(count: int) -> bool:
        if count not in measured:
            measured[count] = measure(ranked[:count])
        return measured[count].fits(options)

    last = _last_count(ranked, options.min_share)
    grid = [0, *(2**power for power in range(last.bit_length()) if 2**power < last), *([last] if last else [])]
    enough = next((count for count in grid if fits(count)), None)
    if enough is not None:
        too_few = max((count for count in measured if count < enough), default=-1)
        while enough - too_few > 1:
            middle = (enough + too_few) // 2
            enough, too_few = (middle, too_few) if fits(middle) else (enough, middle)
    for count in grid[::-1]:
        if len(measured) < options.curve_points:
            fits(count)
    points = tuple(measured[count] for count in sorted(measured))
    return SearchResult(points, None if enough is None else measured[enough])


def _last_count(ranked: Sequence[Candidate], min_share: float) -> int:
    """As many as can be left out while that share is still INT8; 0 if it is less even with all."""
    left = sum(candidate.share for candidate in ranked)
    count = 0
    while count < len(ranked) - 1 and left - ranked[count].share >= min_share:
        left -= ranked[count].share
        count += 1
    return count
