"""Line plots as SVG, drawn here: axes, ticks, spreads and a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sr_deploy.page.html import escape

_LEFT, _TOP, _WIDTH, _HEIGHT, _BOTTOM = 64, 12, 520, 300, 46
_LEGEND = 210
_LEGEND_ROW = 18
# Told apart by most who see colors badly, on white and on black.
_COLORS = (
    "#3b6fb6",
    "#d1662b",
    "#2f9e5f",
    "#b2479b",
    "#8a8d2a",
    "#1f9bb0",
    "#c0445a",
    "#7d6bd0",
    "#8c6d46",
    "#78838f",
)
_DASHES = ("", "6 3", "2 3")
_STEPS = (1, 2, 5)


@dataclass(frozen=True)
class Point:
    """A figure of a plot."""

    x: float
    """Place on the horizontal axis, above 0."""
    y: float
    """Place on the vertical axis, above 0."""
    spread: float
    """Drawn this far below and above."""
    note: str
    """Shown under the pointer."""


@dataclass(frozen=True)
class Series:
    """Points that belong together."""

    name: str
    """Stands in the legend."""
    points: Sequence[Point]
    """From left to right."""


@dataclass(frozen=True)
class _Axis:
    """A logarithmic axis."""

    low: float
    high: float
    start: float
    length: float

    def place(self, value: float) -> float:
        inside = max(value, self.low)
        return self.start + self.length * math.log(inside / self.low) / math.log(self.high / self.low)


def draw_lines(title: str, series: Sequence[Series], x_name: str, y_name: str) -> str:
    """A plot with two logarithmic axes, as SVG.

    Args:
        title: for who cannot see it.
        series: each with at least one point.
        x_name: what is along the horizontal axis, with its unit.
        y_name: what is along the vertical axis, with its unit.
    """
    points = [point for one in series for point in one.points]
    across = _fit([point.x for point in points], _LEFT, _WIDTH)
    ends = [value for point in points for value in (point.y - point.spread, point.y, point.y + point.spread)]
    upward = _fit([value for value in ends if value > 0], _TOP + _HEIGHT, -_HEIGHT)
    width, height = _LEFT + _WIDTH + _LEGEND, max(_TOP + _HEIGHT + _BOTTOM, _TOP + _LEGEND_ROW * (len(series) + 1))
    parts = [_draw_axes(across, upward, x_name, y_name)]
    parts += [_draw_series(number, one, across, upward) for number, one in enumerate(series)]
    return (
        f'<div class="scroll"><svg role="img" aria-label="{escape(title)}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">{"".join(parts)}</svg></div>'
    )


def find_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in _STEPS]
    return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]


def _fit(values: Sequence[float], start: float, length: float) -> _Axis:
    """Room for all values, and a little on both sides."""
    return _Axis(min(values) / 1.25, max(values) * 1.25, start, length)


def _draw_axes(across: _Axis, upward: _Axis, x_name: str, y_name: str) -> str:
    bottom, right = _TOP + _HEIGHT, _LEFT + _WIDTH
    parts = [f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="var(--soft)"/>']
    for tick in find_ticks(across.low, across.high):
        x = across.place(tick)
        parts.append(
            f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="var(--line)"/>'
            f'<text class="soft" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>'
        )
    for tick in find_ticks(upward.low, upward.high):
        y = upward.place(tick)
        parts.append(
            f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="var(--line)"/>'
            f'<text class="soft" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    middle = _TOP + _HEIGHT / 2
    parts.append(
        f'<text x="{_LEFT + _WIDTH / 2}" y="{bottom + 38}" text-anchor="middle">{escape(x_name)}</text>'
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{escape(y_name)}</text>'
    )
    return "".join(parts)


def _draw_series(number: int, series: Series, across: _Axis, upward: _Axis) -> str:
    color = _COLORS[number % len(_COLORS)]
    dash = _DASHES[number // len(_COLORS) % len(_DASHES)]
    points = [(across.place(point.x), upward.place(point.y)) for point in series.points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    parts = [f'<path d="{path}" fill="none" stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"/>']
    for point, (x, y) in zip(series.points, points, strict=True):
        low, high = (upward.place(value) for value in (point.y - point.spread, point.y + point.spread))
        parts.append(
            f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="{color}"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"><title>{escape(point.note)}</title></circle>'
        )
    left, line = _LEFT + _WIDTH + 16, _TOP + _LEGEND_ROW * number + 8
    parts.append(
        f'<path d="M{left} {line}h22" stroke="{color}" stroke-width="3" stroke-dasharray="{dash}"/>'
        f'<text x="{left + 28}" y="{line + 4}">{escape(series.name)}</text>'
    )
    return "".join(parts)
