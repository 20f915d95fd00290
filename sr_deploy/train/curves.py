"""A run's figures as a picture. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sr_deploy.errors import InputError
from sr_deploy.page.plots import Point, Series, draw_lines, write_svg
from sr_deploy.run_folder import METRICS_NAME
from sr_deploy.train.metrics import DISCRIMINATOR_METRICS, OTHER_METRICS, read_metrics
from sr_deploy.train.run import read_manifest


def draw_curves(run: Path, target: Path) -> None:
    """Draw losses, the game with the discriminator, quality on the held-out photographs and the learning rate.

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
    training = [line for line in lines if line["kind"] == "training"]
    validation = [line for line in lines if line["kind"] == "validation"]
    if not training:
        raise InputError(f"{run} has no figures yet ({METRICS_NAME} is empty); train some steps first")
    plots = [
        draw_lines(title, curves, "step", title, log_x=False, log_y=logarithmic)
        for title, curves, logarithmic in _lay_out(training, validation)
    ]
    write_svg(target, f"{manifest.name}: recipe {manifest.recipe}, {lines[-1]['step']} steps", plots)


def _lay_out(
    training: Sequence[dict[str, Any]], validation: Sequence[dict[str, Any]]
) -> list[tuple[str, list[Series], bool]]:
    """(title, curves, whether the scale is logarithmic) of each plot that has something to show."""
    quality = [
        Series("network", _points(validation, "model", "psnr_y")),
        Series("bicubic", _points(validation, "bicubic", "psnr_y")),
    ]
    terms = dict.fromkeys(name for line in training for name in line if name not in OTHER_METRICS)  # in their order
    losses = [(name, _points(training, name)) for name in ("loss", *terms)]
    plots = [
        ("loss", [Series(name, [one for one in points if one.y > 0]) for name, points in losses], True),
        ("discriminator", [Series(name, _points(training, name)) for name in DISCRIMINATOR_METRICS], False),
        ("Y-PSNR of photographs, dB", quality, False),
        ("learning rate", [Series("learning rate", _points(training, "learning_rate"))], False),
    ]
    shown = [(title, [one for one in curves if one.points], log) for title, curves, log in plots]
    return [plot for plot in shown if plot[1]]


def _points(lines: Sequence[dict[str, Any]], *keys: str) -> list[Point]:
    """The lines that have the figure; `keys` lead to it."""
    points = []
    for line in lines:
        value: Any = line
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, float) or (type(value) is int and abs(value) < 2**53):
            points.append(Point(line["step"], float(value), note=f"step {line['step']}: {value:g}"))
    return points
