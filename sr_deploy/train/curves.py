"""A run's figures as a picture. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from sr_deploy.errors import InputError
from sr_deploy.page.plots import Point, Series, draw_lines, write_svg
from sr_deploy.run_folder import METRICS_NAME
from sr_deploy.train.metrics import DISCRIMINATOR_METRICS, OTHER_METRICS, read_metrics
from sr_deploy.train.run import read_manifest

_QUALITY = {
    "psnr_y": "Y-PSNR of photographs, dB",
    "ssim_y": "Y-SSIM of photographs",
    "niqe": "NIQE of photographs (lower is better)",
    "lpips": "LPIPS of photographs (lower is better, not validated)",
}
_MOST_POINTS = 1000
_LARGEST = 1e100


def draw_curves(run: Path, target: Path) -> None:
    """Draw losses, the game with the discriminator, quality on the held-out photographs, learning rate and pace.

    Args:
        run: a run's folder.
        target: the .svg file.

    Raises:
        InputError: no run there, no figures in it yet, or another suffix.
        OutputError: it cannot be written.
    """
    if target.suffix.lower() != ".svg":
        raise InputError(f"cannot draw {target}: unknown suffix {target.suffix!r}; name it .svg")
    manifest = read_manifest(run)
    lines = read_metrics(run)
    if not any(line["kind"] == "training" for line in lines):
        raise InputError(f"{run} has no figures yet ({METRICS_NAME} is empty); train some steps first")
    plots = list_plots(lines, manifest.best_validation.step if manifest.best_validation is not None else None)
    write_svg(
        target, f"{manifest.name}: recipe {manifest.recipe}, {lines[-1]['step']} steps", [one.draw() for one in plots]
    )


@dataclass(frozen=True)
class Plot:
    """Curves of a run that have one scale."""

    title: str
    """What they show, with its unit."""
    series: Sequence[Series]
    logarithmic: bool = False
    """Whether the vertical scale is; the horizontal one has steps."""

    def draw(self) -> str:
        """As SVG for a page."""
        return draw_lines(self.title, self.series, "step", self.title, log_x=False, log_y=self.logarithmic)


def list_plots(lines: Sequence[Mapping[str, Any]], best_step: int | None) -> list[Plot]:
    """The plots of a run that have something to show.

    Args:
        lines: as `read_metrics` gives them.
        best_step: the validation to mark; None: none.
    """
    training = [line for line in lines if line["kind"] == "training"]
    validation = [line for line in lines if line["kind"] == "validation"]
    terms = dict.fromkeys(name for line in training for name in line if name not in OTHER_METRICS)  # in their order
    losses = [(name, _points(training, name)) for name in ("loss", *terms)]
    plots = [
        Plot("loss", [Series(name, [one for one in points if one.y > 0]) for name, points in losses], logarithmic=True),
        Plot("discriminator", [Series(name, _points(training, name)) for name in DISCRIMINATOR_METRICS]),
        *(Plot(title, _compare(validation, name, best_step)) for name, title in _QUALITY.items()),
        Plot("learning rate", [Series("learning rate", _points(training, "learning_rate"))]),
        Plot("steps per second", [Series("steps per second", _points(training, "steps_per_second"))]),
    ]
    shown = [replace(plot, series=[one for one in plot.series if one.points]) for plot in plots]
    return [plot for plot in shown if plot.series]


def _compare(validation: Sequence[Mapping[str, Any]], name: str, best_step: int | None) -> list[Series]:
    network, bicubic = _points(validation, "model", name), _points(validation, "bicubic", name)
    heights = [point.y for point in (*network, *bicubic)]
    scored = [point for point in network if point.x == best_step]
    marked = [Point(scored[0].x, height) for height in (min(heights), max(heights))] if scored else []
    return [
        Series("network", network),
        Series("bicubic", bicubic),
        Series(f"best: step {best_step}", marked, dashed=True),
    ]


def _points(lines: Sequence[Mapping[str, Any]], *keys: str) -> list[Point]:
    """The lines that have the figure, to which `keys` lead; of very many, means of neighbors.

    Figures that no plot has room for are left out: NaN, and what is beyond any measurement.
    """
    points = []
    for line in lines:
        value: Any = line
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if type(value) in (int, float) and abs(value) < _LARGEST:
            shown = float(value) if abs(value) > 1 / _LARGEST else 0.0
            points.append(Point(line["step"], shown, note=f"step {line['step']}: {value:g}"))
    together = math.ceil(len(points) / _MOST_POINTS) or 1
    parts = [points[first : first + together] for first in range(0, len(points), together)]
    return [part[0] if together == 1 else Point(part[-1].x, fmean(one.y for one in part)) for part in parts]
