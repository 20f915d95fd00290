"""Pictures in overlapping tiles, all of one shape.

A tile is a window of the picture. Of its result only the inner part is kept: what lies at least `halo` pixels away from
every side of the window that is not a side of the picture. With a halo as wide as the network's receptive radius this
gives what the whole picture at once would give. Where that is too wide, neighbors are blended over a strip along their
seam (`blend`). One shape for all tiles means one allocation, one engine profile, one tuning. Shapes: lr_NCHW is a batch
of one, all lengths are low-resolution pixels unless said otherwise. docs/tiles.md has the algebra.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from sr_deploy.bundle.profile import Profile
from sr_deploy.errors import BackendError, ShapeError
from sr_deploy.runners.protocol import Runner
from sr_deploy.upscale.blend import Blender
from sr_deploy.upscale.plan import Span, Tile, TilePlan

_Array = TypeVar("_Array", bound=NDArray[Any])

DEFAULT_TILE = 256
"""Default core of a tile."""
MAX_HALO = 40
"""Widest halo that is paid for. It covers compact networks, SRResNet and MSRResNet whole; RRDBNet with 23 blocks sees
some 350 pixels far, and a halo like that would make a tile of 256 cost 14 times its area."""
WHOLE_RATIO = 1.2
"""Pictures with up to as many pixels as a square this many tiles wide go through at once by default: about what one
tile with its halos takes."""


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
    height: int,
    width: int,
    *,
    tile: int | None,
    halo: int,
    blend: int = 0,
    multiple: int = 1,
    profiles: Sequence[Profile] = (),
    default_tile: int = DEFAULT_TILE,
) -> TilePlan:
    """Decide on windows.

    Args:
        height: of the picture.
        width: of the picture.
        tile: side of a tile's core, without halo; 0: the whole picture at once; None: whole if small, else
            `default_tile`.
        halo: pixels around the core that the network looks at.
        blend: pixels on either side of a seam to blend neighbors over; at most the halo and half a core.
        multiple: sides of windows, and where they begin, must be multiples of this.
        profiles: shapes that the runner takes; none: any. Where they allow no window as large as wanted, the halo is
            at most a quarter of the window.
        default_tile: see `tile`.

    Raises:
        ShapeError: an empty picture, a negative tile, or no profile takes a window of this picture.
    """
    if min(height, width) < 1:
        raise ShapeError(f"a picture needs at least one pixel, not {width}x{height}")
    if tile is not None and tile < 0:
        raise ShapeError(f"a tile has at least 1 pixel (or 0: the whole picture at once), not {tile}")
    halo = _round_up(halo, multiple)
    wanted = _wanted_window((height, width), tile, halo, multiple, default_tile)
    smallest, largest = _window_bounds(wanted, profiles, multiple, whole=tile == 0)
    for side, maximum in zip(wanted, largest, strict=True):
        if side > maximum:  # a quarter on either side: half of each window is still put to use
            halo = min(halo, maximum // 4 // multiple * multiple)
    windows = [min(side, maximum) for side, maximum in zip(wanted, largest, strict=True)]
    if tile is None:
        windows = [
            _even_out(side, window, halo, multiple) for side, window in zip((height, width), windows, strict=True)
        ]
    rows = _plan_axis(height, windows[0], smallest[0], halo, multiple)
    columns = _plan_axis(width, windows[1], smallest[1], halo, multiple)
    cores = [axis.window - 2 * halo for axis in (rows, columns) if len(axis.spans) > 1]
    return TilePlan(
        height=height,
        width=width,
        padded_height=rows.padded,
        padded_width=columns.padded,
        window_height=rows.window,
        window_width=columns.window,
        halo=halo if cores else 0,
        rows=rows.spans,
        columns=columns.spans,
        blend=min(blend, halo, *(core // 2 for core in cores)) if cores else 0,
    )


def run_tiles(runner: Runner, lr_NCHW: NDArray[np.float32], plan: TilePlan, *, finite: bool = True) -> Iterator[Piece]:
    """Upscale a picture tile by tile. The pieces cover the result once, without gap or overlap.

    Args:
        runner: takes windows of the plan.
        lr_NCHW: 1 x C x H x W as planned, in [0, 1].
        plan: from `plan_tiles`.
        finite: whether values that are not finite are an error.

    Raises:
        BackendError: the runner failed, gave another shape than its scale says, or values that are not finite.
    """
    if lr_NCHW.shape[0] != 1 or lr_NCHW.shape[2:] != (plan.height, plan.width):
        raise ShapeError(f"planned for 1 x C x {plan.height} x {plan.width}, not {' x '.join(map(str, lr_NCHW.shape))}")
    scale = runner.spec.scale
    blender = Blender(plan, scale)
    for tile in plan.tiles():
        sr = runner.infer(np.ascontiguousarray(cut_window(lr_NCHW, plan, tile, axis=2)))
        if finite:
            _require_finite(runner, sr, tile)
        yield Piece(*blender.add(tile, sr[:, :, *tile.used(scale)]))


def cut_window(image: _Array, plan: TilePlan, tile: Tile, axis: int, first_row: int = 0) -> _Array:
    """What the network gets for a tile; a view where the picture need not be continued.

    Below and at the right the picture is continued up to `padded_height` and `padded_width` where windows need it:
    mirrored, or the last pixel repeated where there is too little to mirror.

    Args:
        image: the picture, or those of its rows that the tile needs; `axis` is that of rows, the next one of columns.
        plan: the picture's.
        tile: one of the plan.
        axis: 0 for H x W x C, 2 for N x C x H x W.
        first_row: of the picture that `image` has.
    """
    cut: NDArray[Any] = image
    for at, first, start, window, side, padded in (
        (axis, first_row, tile.row.start, plan.window_height, plan.height, plan.padded_height),
        (axis + 1, 0, tile.column.start, plan.window_width, plan.width, plan.padded_width),
    ):
        if start + window <= side:
            cut = cut[(slice(None),) * at + (slice(start - first, start - first + window),)]
        else:
            index = np.arange(start, start + window)
            beyond = 2 * (side - 1) - index if padded - side < side else side - 1
            cut = np.take(cut, np.where(index < side, index, beyond) - first, axis=at)
    return cast(_Array, cut)


def join_tiles(
    runner: Runner, lr_NCHW: NDArray[np.float32], plan: TilePlan, *, finite: bool = True
) -> NDArray[np.float32]:
    """All of `run_tiles` in one array, 1 x C x (H * scale) x (W * scale).

    Raises:
        BackendError: as `run_tiles`.
    """
    scale = runner.spec.scale
    sr_NCHW = np.empty((1, lr_NCHW.shape[1], plan.height * scale, plan.width * scale), np.float32)
    for piece in run_tiles(runner, lr_NCHW, plan, finite=finite):
        h, w = piece.sr.shape[2:]
        sr_NCHW[:, :, piece.top : piece.top + h, piece.left : piece.left + w] = piece.sr
    return sr_NCHW


@dataclass(frozen=True)
class _Axis:
    padded: int
    window: int
    spans: tuple[Span, ...]


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _wanted_window(
    size: tuple[int, int], tile: int | None, halo: int, multiple: int, default_tile: int
) -> tuple[int, int]:
    height, width = size
    if tile == 0 or (tile is None and height * width <= (WHOLE_RATIO * default_tile) ** 2):
        return _round_up(height, multiple), _round_up(width, multiple)
    side = _round_up(default_tile if tile is None else tile, multiple) + 2 * halo
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


def _require_finite(runner: Runner, sr: NDArray[np.float32], tile: Tile) -> None:
    if not np.isfinite(sr).all():
        bad = float(np.mean(~np.isfinite(sr)))
        raise BackendError(
            f"{runner.spec} gave values that are not finite ({100 * bad:.2g} % of the tile at row {tile.row.start}, "
            f"column {tile.column.start}); try --backend {runner.spec.backend}:fp32, or sr-deploy verify"
        )
