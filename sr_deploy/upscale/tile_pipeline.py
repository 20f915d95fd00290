"""Windows of pictures: some are computed while those before them are checked and put in their places."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from sr_deploy.imaging.opening import Pixels
from sr_deploy.upscale.canvas import Canvas
from sr_deploy.upscale.inference import Inference
from sr_deploy.upscale.pixels import TileResult
from sr_deploy.upscale.plan import InferencePlan, Tile, TilePlan
from sr_deploy.upscale.rows import InputRows
from sr_deploy.upscale.tiles import cut_window


@dataclass(frozen=True)
class Window:
    """What the network gets for a tile, and where the result goes."""

    samples: Pixels
    """H x W x C."""
    tile: Tile
    """Its place in its picture."""
    canvas: Canvas
    """Takes the results of that image."""


def cut_windows(rows: InputRows, plan: TilePlan, canvas: Canvas) -> Iterator[Window]:
    """The windows of a picture, in the order of the plan.

    Args:
        rows: the picture.
        plan: how it is cut.
        canvas: takes the results.
    """
    mirrored = plan.padded_height - plan.height
    for tile in plan.tiles():
        if tile.column.first:
            rows.hold(tile.row.start - mirrored, tile.row.start + plan.window_height)
        yield Window(cut_window(rows.held, plan, tile, axis=0, first_row=rows.first), tile, canvas)


@dataclass(frozen=True)
class _Checked:
    """A result that was looked at and is not in its place."""

    window: Window
    used: TileResult
    problem: str | None
    """What is wrong with it; None: it waits for one before it."""


@dataclass(frozen=True)
class _Batch:
    """Windows that are or were computed."""

    windows: list[Window]
    results: deque[TileResult]
    """Given away one by one: each may be as large as all that a device has."""


def upscale_windows(
    inference: Inference, plan: InferencePlan, windows: Iterator[Window], on_window: Callable[[], None]
) -> None:
    """Upscale windows of one shape, whichever pictures they are of.

    Only this thread calls runners; a second one does the rest, a batch behind. Results come in the order of windows.

    Args:
        inference: computes and checks.
        plan: of all the pictures.
        windows: of one shape, as planned.
        on_window: told about progress.

    Raises:
        GuardError: what the network gives is not a picture of the input.
        OutOfMemoryError: there is no memory for small tiles either.
        BackendError: the backend failed.
    """

    def put_sound(started: _Batch) -> list[_Checked]:
        """Look at all, and put them up to the first that is not sound: a canvas takes tiles in order."""
        left: list[_Checked] = []
        for window in started.windows:
            used, problem = inference.check(started.results.popleft(), window.samples, window.tile)
            if problem is None and not left:
                window.canvas.put(window.tile, used)
            else:
                left.append(_Checked(window, used, problem))
        return left

    def finish(checked: list[_Checked], count: int) -> None:
        for _ in range(count - len(checked)):
            on_window()
        for one in checked:
            used = one.used
            if one.problem is not None:
                used = inference.recompute(one.problem, one.window.samples, one.window.tile, plan.halo)
            one.window.canvas.put(one.window.tile, used)
            on_window()

    started: deque[_Batch] = deque()
    checking: tuple[Future[list[_Checked]], int] | None = None
    with ThreadPoolExecutor(1, "tiles") as beside:
        while True:
            batched = list(islice(windows, plan.batch))
            if batched:
                started.append(_Batch(batched, deque(inference.start([one.samples for one in batched], plan.halo))))
                if len(started) <= inference.network.queue_depth:
                    continue
            if checking is not None:
                finish(checking[0].result(), checking[1])
                checking = None
            if not started:
                return
            following = started.popleft()
            checking = beside.submit(put_sound, following), len(following.windows)
