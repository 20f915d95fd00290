"""The result of a picture, put together from its tiles: all of it at once, or one row of tiles after the other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sr_deploy.errors import BackendError
from sr_deploy.imaging.opening import Pixels
from sr_deploy.upscale.blend import Blender
from sr_deploy.upscale.pixels import HostResult, TileResult
from sr_deploy.upscale.plan import Tile, TilePlan
from sr_deploy.upscale.rows import InputRows

OnRows = Callable[[Pixels], None]
"""Takes the next finished rows of a result, from top to bottom; they are the taker's from then on."""


class Canvas:
    """A picture that is being made. Tiles come in the order of the plan."""

    def __init__(self, plan: TilePlan, like: InputRows, scale: int, on_rows: OnRows, *, whole: bool) -> None:
        """Begin at the top.

        Args:
            plan: how the picture is cut.
            like: the picture, for its channels and its type.
            scale: of the network.
            on_rows: given what is finished.
            whole: give it all rows at once, else those of each row of tiles.
        """
        self._plan = plan
        self._scale = scale
        self._on_rows = on_rows
        self._whole = whole
        self._blender = Blender(plan, scale)
        self._width = plan.width * scale
        self._rows: Pixels = np.empty((0, self._width, like.channels), like.held.dtype)
        self._top = 0
        self._written = 0

    def put(self, tile: Tile, used: TileResult) -> None:
        """Blend what is used of a tile's result with the tiles before it, and write what is final now.

        Raises:
            BackendError: tiles did not cover the rows that are finished.
        """
        if self._plan.blend:
            top, left, sr = self._blender.add(tile, used.read())
            used = HostResult(sr)
        else:
            top, left = tile.row.used_from * self._scale, tile.column.used_from * self._scale
        height, width = used.size
        if tile.column.first and (tile.row.first or not self._whole):
            self._begin(top, self._plan.height * self._scale if self._whole else height)
        target = self._rows[top - self._top : top - self._top + height, left : left + width]
        used.write(target)
        self._written += target.size
        if tile.column.last and (tile.row.last or not self._whole):
            self._end()

    @property
    def seam_db(self) -> float | None:
        """As `Blender.seam_db`."""
        return self._blender.seam_db

    def _begin(self, top: int, height: int) -> None:
        self._rows = np.empty((height, *self._rows.shape[1:]), self._rows.dtype)
        self._top = top
        self._written = 0

    def _end(self) -> None:
        if self._written != self._rows.size:
            raise BackendError(
                f"internal: tiles gave {self._written} samples of {self._rows.size}; please report this picture"
            )
        self._on_rows(self._rows)
