"""All tiles of a picture: one is computed while the one before it is checked and put in its place."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from sr_deploy.imaging.opening import Pixels
from sr_deploy.upscale.canvas import Canvas
from sr_deploy.upscale.inference import Inference
from sr_deploy.upscale.pixels import TileResult
from sr_deploy.upscale.plan import Tile, TilePlan
from sr_deploy.upscale.rows import InputRows
from sr_deploy.upscale.tiles import cut_window

OnTile = Callable[[int, int], None]
"""Called after each tile with the number done and the number of all."""


@dataclass(frozen=True)
class _Pending:
    """A tile that was computed and is being looked at."""

    tile: Tile
    window: Pixels
    problem: Future[str | None]
    """What is wrong with it; None once it is in its place."""


def upscale_tiles(
    inference: Inference, rows: InputRows, plan: TilePlan, canvas: Canvas, on_tile: OnTile | None = None
) -> None:
    """Upscale a picture.

    Only this thread calls runners; a second one does the rest, a tile behind.

    Args:
        inference: computes and checks.
        rows: the picture.
        plan: how it is cut.
        canvas: takes the results.
        on_tile: told about progress.

    Raises:
        GuardError: what the network gives is no picture of the input.
        OutOfMemoryError: there is no memory for small tiles either.
        BackendError: the backend failed.
    """
    mirrored = plan.padded_height - plan.height
    done = 0

    def put_if_sound(result: TileResult, window: Pixels, tile: Tile) -> str | None:
        used, problem = inference.check(result, window, tile)
        if problem is None:
            canvas.put(tile, used)
        return problem

    def settle(pending: _Pending) -> None:
        nonlocal done
        problem = pending.problem.result()
        if problem is not None:
            canvas.put(pending.tile, inference.recompute(problem, pending.window, pending.tile))
        done += 1
        if on_tile is not None:
            on_tile(done, plan.count)

    pending: _Pending | None = None
    with ThreadPoolExecutor(1, "tiles") as beside:
        for tile in plan.tiles():
            if tile.column.first:
                rows.hold(tile.row.start - mirrored, tile.row.start + plan.window_height)
            window = cut_window(rows.held, plan, tile, axis=0, first_row=rows.first)
            result = inference.start(window)
            if pending is not None:
                settle(pending)
            pending = _Pending(tile, window, beside.submit(put_if_sound, result, window, tile))
            del result  # the thread has it; here it would take the place of the next one
        if pending is not None:
            settle(pending)
