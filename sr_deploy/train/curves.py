"""A run's figures as a picture. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sr_deploy.deps import require
from sr_deploy.errors import InputError
from sr_deploy.files import replacing_file
from sr_deploy.run_folder import METRICS_NAME
from sr_deploy.train.metrics import DISCRIMINATOR_METRICS, OTHER_METRICS, read_metrics
from sr_deploy.train.run import read_manifest

Points = tuple[list[int], list[float]]
"""Steps and values."""

_SUFFIXES = (".png", ".svg", ".pdf")


def draw_curves(run: Path, target: Path) -> None:
    """Draw losses, the game with the discriminator, quality on the held-out photographs and the learning rate.

    Args:
        run: a run's folder.
        target: .png, .svg or .pdf.

    Raises:
        InputError: no run there, no figures in it yet, or another suffix.
        MissingDependencyError: matplotlib is absent.
        OutputError: it cannot be written.
    """
    if target.suffix.lower() not in _SUFFIXES:
        raise InputError(f"cannot draw {target}: unknown suffix {target.suffix!r}; name one of {', '.join(_SUFFIXES)}")
    manifest = read_manifest(run)
    lines = read_metrics(run)
    training = [line for line in lines if line["kind"] == "training"]
    validation = [line for line in lines if line["kind"] == "validation"]
    if not training:
        raise InputError(f"{run} has no figures yet ({METRICS_NAME} is empty); train some steps first")
    panels = _lay_out(training, validation)
    require("matplotlib", "drawing curves")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 2.6 * len(panels)), layout="constrained")
    figure.suptitle(f"{manifest.name}: recipe {manifest.recipe}, {lines[-1]['step']} steps")
    for axes, (title, curves, logarithmic) in zip(
        figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], panels, strict=True
    ):
        for name, (steps, values) in curves.items():
            axes.plot(steps, values, label=name, linewidth=1.4, marker="o" if len(steps) < 12 else None, markersize=3)
        axes.set_ylabel(title)
        axes.set_yscale("log" if logarithmic else "linear")
        axes.grid(alpha=0.3)
        axes.legend(loc="best", fontsize="small")
    axes.set_xlabel("step")
    with replacing_file(target) as temporary:
        figure.savefig(temporary, format=target.suffix[1:].lower(), dpi=120)


def _lay_out(
    training: Sequence[dict[str, Any]], validation: Sequence[dict[str, Any]]
) -> list[tuple[str, dict[str, Points], bool]]:
    """(title, curves by name, whether the scale is logarithmic) of each panel that has something to show."""
    quality = {
        "network": _points(validation, "model", "psnr_y"),
        "bicubic": _points(validation, "bicubic", "psnr_y"),
    }
    terms = dict.fromkeys(name for line in training for name in line if name not in OTHER_METRICS)  # in their order
    panels = [
        ("loss", {name: _points(training, name) for name in ("loss", *terms)}, True),
        ("discriminator", {name: _points(training, name) for name in DISCRIMINATOR_METRICS}, False),
        ("Y-PSNR of photographs, dB", quality, False),
        ("learning rate", {"learning rate": _points(training, "learning_rate")}, False),
    ]
    shown = [(title, {name: one for name, one in curves.items() if one[0]}, log) for title, curves, log in panels]
    return [panel for panel in shown if panel[1]]


def _points(lines: Sequence[dict[str, Any]], *keys: str) -> Points:
    """Steps and values of the lines that have the figure; `keys` lead to it."""
    steps, values = [], []
    for line in lines:
        value: Any = line
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, float) or (type(value) is int and abs(value) < 2**53):
            steps.append(line["step"])
            values.append(float(value))
    return steps, values
