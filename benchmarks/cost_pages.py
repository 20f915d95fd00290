"""What benchmarks/cost_curves.py measured: exponents, predictions beside outcomes, plots and their page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pages import head_lines, make_table, replace_table

from sr_deploy.files import write_text
from sr_deploy.page.plots import Point, Series, draw_lines, write_svg

if TYPE_CHECKING:
    from cost_points import CostPoint

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "cost-curves.md"
LEAST_NOISE = 0.1
"""Of an exponent: what caches and clocks do to it, whatever rounds agree upon. Sorting 1,000 to 100,000 names, n log n,
has an exponent of 1.1."""
LEAST_MIB = 8.0
"""Less than this is within what allocators keep for later: a point below counts as this much."""
_X_NAMES = {
    "pixels": "input pixels",
    "batch": "pictures in a batch",
    "tiles": "tiles of one picture",
    "frames": "frames",
    "files": "files",
}
_RULE = (
    "Exponent: the slope of log time (or memory) against log size over the upper half of the sizes, three at least: "
    "the median of the rounds, and half their range, at least 0.1. Predicted, of the largest size: operations of the "
    "graph and the plan at the measured peak of a matrix product, and the memory that the upscaler estimates; where "
    "nothing tells (*), what the middle size took times the growth of sizes. **Finding**: an exponent above its limit "
    "by more than its noise; the limit is 1, and 0 for the memory of films. Memory: the peak beyond what the process "
    "held before, counted from 8 MiB on."
)


@dataclass(frozen=True)
class Growth:
    """How a cost grows."""

    exponent: float
    """Slope of the logarithms."""
    noise: float
    """How far it may be off."""
    limit: float
    """What it should not exceed."""

    @property
    def is_finding(self) -> bool:
        """Whether the cost grows faster than the work."""
        return self.exponent - self.noise > self.limit


@dataclass(frozen=True)
class Outcome:
    """One line of a plot."""

    curve: str
    """The plot."""
    name: str
    """In the legend."""
    x: list[float]
    """Sizes, ascending."""
    seconds: list[list[float]]
    """For each round and size the median of the calls."""
    mib: list[list[float]]
    """For each round and size the peak memory."""
    flops: list[float | None]
    """Operations of each size, where the graph tells them."""
    predicted_mib: list[float | None]
    """Of each size, where it is estimated."""
    memory_limit: float
    """Exponent that the memory may grow with."""

    @classmethod
    def of_rounds(cls, curve: str, name: str, rounds: Sequence[Sequence[CostPoint]], memory_limit: float) -> Outcome:
        """From the points of each round, in the order of the sizes."""
        first = rounds[0]
        return cls(
            curve=curve,
            name=name,
            x=[point.x for point in first],
            seconds=[[statistics.median(point.seconds) for point in turn] for turn in rounds],
            mib=[[point.mib for point in turn] for turn in rounds],
            flops=[point.flops for point in first],
            predicted_mib=[point.predicted_mib for point in first],
            memory_limit=memory_limit,
        )

    def time_growth(self) -> Growth:
        """Of the time."""
        return fit_growth(self.x, self.seconds, 1.0)

    def memory_growth(self) -> Growth:
        """Of the memory."""
        return fit_growth(self.x, [[max(one, LEAST_MIB) for one in turn] for turn in self.mib], self.memory_limit)

    def predict_seconds(self, gflops: float) -> list[float]:
        """Of each size: from its operations, or by the size from the middle one."""
        known = [one / gflops / 1e9 for one in self.flops if one is not None]
        return known if len(known) == len(self.x) else scale_up(self.x, medians(self.seconds), 1.0)

    def predict_mib(self) -> list[float]:
        """Of each size: as the upscaler estimates, or by the size from the middle one."""
        known = [one for one in self.predicted_mib if one is not None]
        return known if len(known) == len(self.x) else scale_up(self.x, medians(self.mib), self.memory_limit)


def medians(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Over the rounds, of each size."""
    return [statistics.median(values) for values in zip(*rounds, strict=True)]


def scale_up(x: Sequence[float], y: Sequence[float], exponent: float) -> list[float]:
    """What every size would cost if cost grew with that exponent from the middle one on."""
    middle = len(x) // 2
    return [max(y[middle], 0.0) * (one / x[middle]) ** exponent for one in x]


def fit_growth(x: Sequence[float], rounds: Sequence[Sequence[float]], limit: float) -> Growth:
    """The exponent over the upper half of the sizes, three at least if there are so many.

    Args:
        x: sizes, ascending, above 0.
        rounds: cost of each size in each round, above 0.
        limit: of the exponent.
    """
    count = min(len(x), max(3, math.ceil(len(x) / 2)))
    across = np.log(x[-count:])
    slopes = [float(np.polyfit(across, np.log(turn[-count:]), 1)[0]) for turn in rounds]
    noise = max((max(slopes) - min(slopes)) / 2, LEAST_NOISE)
    return Growth(statistics.median(slopes), noise, limit)


def write_pages(curves: Mapping[str, Mapping[str, Any]], out: Path) -> None:
    """`cost_curves.md` beside the results; from results of this folder also docs/cost-curves.md and its plots."""
    pictures = PAGE.parent / "pictures" if out.resolve() == RESULTS.resolve() else out
    link = "../../docs/pictures" if pictures != out else "."
    write_text(
        out / "cost_curves.md", "\n".join([*head_lines("Cost curves", "cost_curves.py", {}), *_show(curves, link)])
    )
    for curve, measured in curves.items():
        draw_curve(curve, [Outcome(**one) for one in measured["series"]], measured["run"]["gflops"], pictures)
    if pictures != out:
        replace_table("cost curves", "\n".join(_show(curves, "pictures")), PAGE)


def name_plot(curve: str) -> str:
    """Its file."""
    return f"cost-{curve.replace(' ', '-')}.svg"


def _show(curves: Mapping[str, Mapping[str, Any]], pictures: str) -> Iterator[str]:
    findings = [line for curve, one in curves.items() for line in _list_findings(curve, one["series"])]
    yield from (_RULE, "", *(findings or ["No finding: nothing grows faster than its work."]), "")
    for curve, measured in curves.items():
        run = measured["run"]
        yield from (f"### Against {_X_NAMES.get(curve, curve)}", "")
        yield from (f"![Time and memory against {_X_NAMES.get(curve, curve)}]({pictures}/{name_plot(curve)})", "")
        rows = (_list_cells(Outcome(**one), run["gflops"]) for one in measured["series"])
        header = "what | sizes | time | predicted | exponent | memory | predicted | exponent"
        yield from (*make_table(header, rows), "")
        yield f"{run['machine']}; fp32 {run['gflops']:.0f} GFLOP/s; {run['versions']};"
        yield from (f"{run['rounds']} rounds; {run['date']}; `{run['command']}`.", "")


def _list_findings(curve: str, series: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for outcome in (Outcome(**one) for one in series):
        for what, growth in (("time", outcome.time_growth()), ("memory", outcome.memory_growth())):
            if growth.is_finding:
                yield f"- **Finding**: {what} of {curve}, {outcome.name}: {show_growth(growth)}"


def _list_cells(outcome: Outcome, gflops: float) -> tuple[str, ...]:
    by_graph, by_estimate = (None not in one for one in (outcome.flops, outcome.predicted_mib))
    return (
        *(outcome.name, f"{outcome.x[0]:,.0f} to {outcome.x[-1]:,.0f}", show_seconds(medians(outcome.seconds)[-1])),
        show_seconds(outcome.predict_seconds(gflops)[-1]) + ("" if by_graph else " *"),
        *(show_growth(outcome.time_growth()), f"{medians(outcome.mib)[-1]:.0f} MiB"),
        f"{outcome.predict_mib()[-1]:.0f} MiB" + ("" if by_estimate else " *"),
        show_growth(outcome.memory_growth()),
    )


def show_growth(growth: Growth) -> str:
    """With its noise, in bold if it is a finding."""
    text = f"{growth.exponent:.2f} ± {growth.noise:.2f}"
    return f"**{text}**" if growth.is_finding else text


def show_seconds(seconds: float) -> str:
    """With three figures."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def draw_curve(curve: str, outcomes: Sequence[Outcome], gflops: float, folder: Path) -> None:
    """Time above memory: measured with markers, predicted dashed."""
    x_name = _X_NAMES.get(curve, curve)
    times = [(one, medians(one.seconds), one.predict_seconds(gflops)) for one in outcomes]
    memory = [(one, medians(one.mib), one.predict_mib()) for one in outcomes]
    plots = [
        draw_lines(y_name, _make_series(lines, least), x_name, y_name)
        for y_name, lines, least in (("seconds", times, 1e-6), ("peak memory, MiB", memory, 1.0))
    ]
    write_svg(folder / name_plot(curve), f"{curve}: measured, and predicted (dashed)", plots)


def _make_series(lines: Sequence[tuple[Outcome, Sequence[float], Sequence[float]]], least: float) -> list[Series]:
    def place(outcome: Outcome, values: Sequence[float]) -> list[Point]:
        return [Point(x, max(value, least), note=f"{value:.3g}") for x, value in zip(outcome.x, values, strict=True)]

    measured = [Series(outcome.name, place(outcome, values)) for outcome, values, _ in lines]
    predicted = [Series("", place(one, values), number, dashed=True) for number, (one, _, values) in enumerate(lines)]
    return measured + predicted
