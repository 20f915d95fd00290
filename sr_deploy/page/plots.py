"""Line plots as SVG, drawn here: axes, ticks, spreads and a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sr_deploy.files import write_text
from sr_deploy.page.html import escape, wrap_svg

_LEFT, _TOP, _WIDTH, _HEIGHT, _BOTTOM = 64, 12, 520, 300, 46
_LEGEND = 210
_LEGEND_ROW = 18
_TITLE = 26
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
_MOST_TICKS = 9
_MOST_MARKERS = 40
_PAPER = {"var(--ink)": "#1c2128", "var(--soft)": "#5a6472", "var(--line)": "#d8dde3"}
"""Colors of a page by day (style.css), for files of their own: not every viewer knows variables."""
_FILE_STYLE = "text { font: 12px sans-serif; fill: #1c2128; } .soft { fill: #5a6472; }"


@dataclass(frozen=True)
class Point:
    """A figure of a plot."""

    x: float
    """Place on the horizontal axis; above 0 where that is logarithmic."""
    y: float
    """Place on the vertical axis; above 0 where that is logarithmic."""
    spread: float = 0.0
    """Drawn this far below and above."""
    note: str = ""
    """Shown under the pointer."""


@dataclass(frozen=True)
class Series:
    """Points that belong together."""

    name: str
    """Stands in the legend; empty: not there."""
    points: Sequence[Point]
    """From left to right."""
    color: int | None = None
    """Number of the color; None: the place among the series."""
    dashed: bool = False
    """Whether it is a dashed line without markers, as of limits and predictions."""


@dataclass(frozen=True)
class _Axis:
    """From `low` to `high`, over `length` pixels from `start` on."""

    low: float
    high: float
    start: float
    length: float
    logarithmic: bool

    def place(self, value: float) -> float:
        inside = max(value, self.low)
        if self.logarithmic:
            return self.start + self.length * math.log(inside / self.low) / math.log(self.high / self.low)
        return self.start + self.length * (inside - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        if self.logarithmic:
            return find_ticks(self.low, self.high)
        step = _find_step((self.high - self.low) / _MOST_TICKS)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [round(number * step, 12) for number in range(first, last + 1)]


def draw_lines(
    title: str,
    series: Sequence[Series],
    x_name: str,
    y_name: str,
    *,
    log_x: bool = True,
    log_y: bool = True,
) -> str:
    """A plot, as SVG for a page.

    Args:
        title: for who cannot see it.
        series: each with at least one point.
        x_name: what is along the horizontal axis, with its unit.
        y_name: what is along the vertical axis, with its unit.
        log_x: whether the horizontal axis is logarithmic.
        log_y: whether the vertical axis is logarithmic.
    """
    points = [point for one in series for point in one.points]
    across = _fit([point.x for point in points], _LEFT, _WIDTH, logarithmic=log_x)
    ends = [value for point in points for value in (point.y - point.spread, point.y, point.y + point.spread)]
    upward = _fit([value for value in ends if value > 0 or not log_y], _TOP + _HEIGHT, -_HEIGHT, logarithmic=log_y)
    parts = [_draw_axes(across, upward, x_name, y_name)]
    parts += [_draw_series(number, one, across, upward) for number, one in enumerate(series)]
    named = sum(bool(one.name) for one in series)
    return wrap_svg(
        title, _LEFT + _WIDTH + _LEGEND, max(_TOP + _HEIGHT + _BOTTOM, _TOP + _LEGEND_ROW * (named + 1)), "".join(parts)
    )


def write_svg(path: Path, title: str, plots: Sequence[str]) -> None:
    """Write plots below one another into a file of its own, on white.

    Args:
        path: the .svg file.
        title: stands above them.
        plots: of `draw_lines`.

    Raises:
        OutputError: it cannot be written.
    """
    height = _TOP + _HEIGHT + _BOTTOM
    drawn = "".join(
        plot[plot.index("<svg") : plot.index("</div>")].replace("<svg ", f'<svg y="{_TITLE + height * number}" ', 1)
        for number, plot in enumerate(plots)
    )
    for variable, color in _PAPER.items():
        drawn = drawn.replace(variable, color)
    width = _LEFT + _WIDTH + _LEGEND
    size = f'width="{width}" height="{_TITLE + height * len(plots)}"'
    write_text(
        path,
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{_FILE_STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/><text x="{_LEFT}" y="18">{escape(title)}</text>{drawn}</svg>\n',
    )


def find_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in _STEPS]
    return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]


def _find_step(least: float) -> float:
    """1, 2 or 5 times a power of ten, `least` at least."""
    power = 10.0 ** math.floor(math.log10(least))
    return power * next(step for step in (*_STEPS, 10) if step * power >= least)


def _fit(values: Sequence[float], start: float, length: float, *, logarithmic: bool) -> _Axis:
    """Room for all values, and a little on both sides."""
    low, high = min(values), max(values)
    if logarithmic:
        return _Axis(low / 1.25, high * 1.25, start, length, True)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return _Axis(low - room, high + room, start, length, False)


def _draw_axes(across: _Axis, upward: _Axis, x_name: str, y_name: str) -> str:
    bottom, right = _TOP + _HEIGHT, _LEFT + _WIDTH
    parts = [f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="var(--soft)"/>']
    for tick in across.ticks():
        x = across.place(tick)
        parts.append(
            f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="var(--line)"/>'
            f'<text class="soft" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>'
        )
    for tick in upward.ticks():
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
    place = number if series.color is None else series.color
    color = _COLORS[place % len(_COLORS)]
    dash = "6 4" if series.dashed else _DASHES[place // len(_COLORS) % len(_DASHES)]
    width = 1 if series.dashed else 2
    places = [(across.place(point.x), upward.place(point.y)) for point in series.points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    parts = [f'<path d="{path}" fill="none" stroke="{color}" stroke-width="{width}" stroke-dasharray="{dash}"/>']
    marked = not series.dashed and len(places) <= _MOST_MARKERS
    for point, (x, y) in zip(series.points, places, strict=True) if marked else ():
        low, high = (upward.place(value) for value in (point.y - point.spread, point.y + point.spread))
        parts.append(
            f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="{color}"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"><title>{escape(point.note)}</title></circle>'
        )
    if series.name:
        left, line = _LEFT + _WIDTH + 16, _TOP + _LEGEND_ROW * number + 8
        parts.append(
            f'<path d="M{left} {line}h22" stroke="{color}" stroke-width="3" stroke-dasharray="{dash}"/>'
            f'<text x="{left + 28}" y="{line + 4}">{escape(series.name)}</text>'
        )
    return "".join(parts)
