"""The result of a picture, put together from its tiles."""

from __future__ import annotations

import numpy as np

from sr_deploy.errors import BackendError
from sr_deploy.imaging.opening import Pixels
from sr_deploy.upscale.blend import Blender
from sr_deploy.upscale.pixels import HostResult, TileResult
from sr_deploy.upscale.plan import Tile, TilePlan


class Canvas:
    """A picture that is being made. Tiles come in the order of the plan."""

    def __init__(self, plan: TilePlan, like: Pixels, scale: int) -> None:
        """Make room.

        Args:
            plan: how the picture is cut.
            like: the picture, for its channels and its type.
            scale: of the network.
        """
        self._plan = plan
        self._scale = scale
        self._blender = Blender(plan, scale)
        self._image: Pixels = np.empty((plan.height * scale, plan.width * scale, like.shape[2]), like.dtype)
        self._written = 0

    def put(self, tile: Tile, used: TileResult) -> None:
        """Blend what is used of a tile's result with the tiles before it, and write what is final now."""
        if self._plan.blend:
            top, left, sr = self._blender.add(tile, used.read())
            used = HostResult(sr)
        else:
            top, left = tile.row.used_from * self._scale, tile.column.used_from * self._scale
        height, width = used.size
        target = self._image[top : top + height, left : left + width]
        used.write(target)
        self._written += target.size

    @property
    def seam_db(self) -> float | None:
        """As `Blender.seam_db`."""
        return self._blender.seam_db

    def take_image(self) -> Pixels:
        """The finished picture.

        Raises:
            BackendError: tiles did not cover it.
        """
        if self._written != self._image.size:
            raise BackendError(
                f"internal: tiles gave {self._written} samples of {self._image.size}; please report this picture"
            )
        return self._image
