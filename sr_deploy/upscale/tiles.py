"""Pictures in overlapping tiles, all of one shape.

A tile is a window of the picture. Of its result only the inner part is kept: what lies at least `halo` pixels away from
every side of the window that is not a side of the picture. With a halo as wide as the network's receptive radius this
gives what the whole picture at once would give. One shape for all tiles means one allocation, one engine profile, one
tuning. Shapes: lr_NCHW is a batch of one, all lengths are low-resolution pixels unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sr_deploy.bundle.profile import Profile
from sr_deploy.errors import BackendError, ShapeError
from sr_deploy.runners.protocol import Runner

DEFAULT_TILE = 256
"""Core of a tile where nobody says otherwise."""
MAX_HALO = 40
"""Widest halo that is paid for. It covers compact networks, SRResNet and MSRResNet whole; RRDBNet with 23 blocks sees
some 350 pixels far, and a halo like that would make a tile of 256 cost 14 times its area."""
WHOLE_AREA = 384 * 384
"""Pictures up to this many pixels go through at once by default: about what one tile with its halos takes."""


@dataclass(frozen=True)
class Span:
    """One tile along one axis."""

    start: int
    """First pixel of the window."""
    keep_from: int
    """First pixel of the window's result that is kept, in picture coordinates."""
    keep_to: int
    """One past the last."""


@dataclass(frozen=True)
class TilePlan:
    """How a picture is cut."""

    height: int
    """Of the picture."""
    width: int
    """Of the picture."""
    padded_height: int
    """With what is added at the bottom, so that windows fit."""
    padded_width: int
    """With what is added at the right."""
    window_height: int
    """Of every window: what the network gets."""
    window_width: int
    """Of every window."""
    halo: int
    """Pixels of overlap that are thrown away on each inner side of a window; 0 for a whole picture."""
    rows: tuple[Span, ...]
    """Windows from top to bottom."""
    columns: tuple[Span, ...]
    """Windows from left to right."""

    @property
    def count(self) -> int:
        """Number of tiles."""
        return len(self.rows) * len(self.columns)


@dataclass(frozen=True)
class Piece:
    """The part of a result that one tile is responsible for."""

    top: int
    """Its place in the high-resolution picture, in high-resolution pixels."""
    left: int
    """Its place in the high-resolution picture, in high-resolution pixels."""
    sr: NDArray[np.float32]
    """The result there: 1 x C x height x width, not clamped."""


def plan_tiles(
    height: int, width: int, *, tile: int | None, halo: int, multiple: int = 1, profiles: Sequence[Profile] = ()
) -> TilePlan:
    """Decide on windows.

    Args:
        height: of the picture.
        width: of the picture.
        tile: side of a tile's core, without halo; 0: the whole picture at once; None: whole if small, else 256.
        halo: pixels around the core that the network looks at.
        multiple: sides of windows, and where they begin, must be multiples of this.
        profiles: shapes that the runner takes; none: any. Where they allow no window as large as wanted, the halo is
            at most a quarter of the window.

    Raises:
        ShapeError: an empty picture, a negative tile, or no profile takes a window of this picture.
    """
    if min(height, width) < 1:
        raise ShapeError(f"a picture needs at least one pixel, not {width}x{height}")
    if tile is not None and tile < 0:
        raise ShapeError(f"a tile has at least 1 pixel (or 0: the whole picture at once), not {tile}")
    halo = _round_up(halo, multiple)
    wanted = _wanted_window(height, width, tile, halo, multiple)
    smallest, largest = _window_bounds(wanted, profiles, multiple, whole=tile == 0)
    for side, most in zip(wanted, largest, strict=True):
        if side > most:  # a quarter on either side: half of each window is still put to use
            halo = min(halo, most // 4 // multiple * multiple)
    windows = [min(side, most) for side, most in zip(wanted, largest, strict=True)]
    if tile is None:
        windows = [
            _even_out(side, window, halo, multiple) for side, window in zip((height, width), windows, strict=True)
        ]
    rows = _plan_axis(height, windows[0], smallest[0], halo, multiple)
    columns = _plan_axis(width, windows[1], smallest[1], halo, multiple)
    return TilePlan(
        height=height,
        width=width,
        padded_height=rows.padded,
        padded_width=columns.padded,
        window_height=rows.window,
        window_width=columns.window,
        halo=halo if len(rows.spans) * len(columns.spans) > 1 else 0,
        rows=rows.spans,
        columns=columns.spans,
    )


def run_tiles(runner: Runner, lr_NCHW: NDArray[np.float32], plan: TilePlan) -> Iterator[Piece]:
    """Upscale a picture tile by tile. The pieces cover the result once, without gap or overlap.

    Args:
        runner: takes windows of the plan.
        lr_NCHW: 1 x C x H x W as planned, in [0, 1].
        plan: from `plan_tiles`.

    Raises:
        BackendError: the runner failed, gave another shape than its scale says, or values that are not finite.
    """
    padded = _pad(lr_NCHW, plan)
    scale = runner.spec.scale
    for row in plan.rows:
        for column in plan.columns:
            window = padded[
                :,
                :,
                row.start : row.start + plan.window_height,
                column.start : column.start + plan.window_width,
            ]
            sr = _infer_checked(runner, np.ascontiguousarray(window), (row, column))
            kept = sr[:, :, _crop(row, plan.height, scale), _crop(column, plan.width, scale)]
            yield Piece(row.keep_from * scale, column.keep_from * scale, kept)


@dataclass(frozen=True)
class _Axis:
    padded: int
    window: int
    spans: tuple[Span, ...]


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _wanted_window(height: int, width: int, tile: int | None, halo: int, multiple: int) -> tuple[int, int]:
    if tile == 0 or (tile is None and height * width <= WHOLE_AREA):
        return _round_up(height, multiple), _round_up(width, multiple)
    side = _round_up(DEFAULT_TILE if tile is None else tile, multiple) + 2 * halo
    return min(side, _round_up(height, multiple)), min(side, _round_up(width, multiple))


def _window_bounds(
    wanted: tuple[int, int], profiles: Sequence[Profile], multiple: int, *, whole: bool
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Smallest and largest window: those of the profile that comes nearest to the wanted one."""
    if not profiles:
        return (1, 1), wanted
    single = [profile for profile in profiles if profile.min.n <= 1]
    if not single:
        raise ShapeError(
            f"this graph or engine takes batches only ({'; '.join(str(profile.min) for profile in profiles)}), no "
            "single picture; export one with a dynamic batch, or build with --profile NAME=1xHxW,..."
        )

    def cost(profile: Profile) -> tuple[float, int]:
        """First how many times the profile's window has to be laid to cover the wanted one, then what is padded."""
        windows = (wanted[0] / profile.max.h, wanted[1] / profile.max.w)
        laid = max(windows[0], 1) * max(windows[1], 1)
        return laid, max(wanted[0], profile.min.h) * max(wanted[1], profile.min.w)

    best = min(single, key=cost)
    largest = (best.max.h // multiple * multiple, best.max.w // multiple * multiple)
    if whole and (wanted[0] > largest[0] or wanted[1] > largest[1]):
        raise ShapeError(
            f"the whole picture ({wanted[0]}x{wanted[1]}, HxW) does not fit the largest profile ({best.max.h}x"
            f"{best.max.w}); leave --tile out, or build with a larger --profile"
        )
    return (_round_up(best.min.h, multiple), _round_up(best.min.w, multiple)), largest


def _even_out(side: int, window: int, halo: int, multiple: int) -> int:
    """The smallest window with which no more of them are needed, so that the last repeats little of the others."""
    padded = _round_up(side, multiple)
    if window >= padded:
        return window
    count = -(-(padded - 2 * halo) // (window - 2 * halo))
    return _round_up(-(-(padded - 2 * halo) // count), multiple) + 2 * halo


def _plan_axis(side: int, window: int, smallest: int, halo: int, multiple: int) -> _Axis:
    window = max(window, smallest)
    padded = max(_round_up(side, multiple), window)
    if window >= padded:
        return _Axis(padded, padded, (Span(0, 0, side),))
    step = window - 2 * halo
    spans: list[Span] = []
    start = kept = 0
    while start + window < padded:
        spans.append(Span(start, kept, start + window - halo))
        kept = start + window - halo
        start += step
    spans.append(Span(padded - window, kept, side))  # slid inwards, so that it has the shape of the others
    return _Axis(padded, window, tuple(spans))


def _pad(lr_NCHW: NDArray[np.float32], plan: TilePlan) -> NDArray[np.float32]:
    """Add rows below and columns at the right: mirrored, or the last one repeated where there is too little."""
    if lr_NCHW.shape[0] != 1 or lr_NCHW.shape[2:] != (plan.height, plan.width):
        raise ShapeError(f"planned for 1 x C x {plan.height} x {plan.width}, not {' x '.join(map(str, lr_NCHW.shape))}")
    for axis, missing in ((2, plan.padded_height - plan.height), (3, plan.padded_width - plan.width)):
        if missing:
            widths = [(0, 0)] * 4
            widths[axis] = (0, missing)
            mode = "reflect" if missing < lr_NCHW.shape[axis] else "edge"
            lr_NCHW = np.pad(lr_NCHW, widths, mode=mode)  # type: ignore[call-overload]
    return lr_NCHW


def _crop(span: Span, side: int, scale: int) -> slice:
    return slice((span.keep_from - span.start) * scale, (min(span.keep_to, side) - span.start) * scale)


def _infer_checked(runner: Runner, window: NDArray[np.float32], place: tuple[Span, Span]) -> NDArray[np.float32]:
    sr = runner.infer(window)
    if not np.isfinite(sr).all():
        bad = float(np.mean(~np.isfinite(sr)))
        raise BackendError(
            f"{runner.spec} gave values that are not finite ({100 * bad:.2g} % of the tile at row {place[0].start}, "
            f"column {place[1].start}); try --backend {runner.spec.backend}:fp32, or sr-deploy verify"
        )
    return sr
