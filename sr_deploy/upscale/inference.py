"""One window after the other through a runner: smaller when memory runs out, again in FP32 when a guard objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import GuardError, OutOfMemoryError
from sr_deploy.imaging.opening import Pixels
from sr_deploy.runners.protocol import DeviceRunner, Runner
from sr_deploy.upscale.device import infer_on_device, runs_on_device
from sr_deploy.upscale.guards import DEFAULT_LIMITS, GuardLimits, find_problem, measure_statistics
from sr_deploy.upscale.pixels import HostResult, TileResult, to_window
from sr_deploy.upscale.plan import Tile
from sr_deploy.upscale.tiles import join_tiles, plan_tiles

SMALLEST_TILE = 16
"""Core of a tile below which halving stops: the halo is nearly all of it then."""


class Inference:
    """Remembers the tile that memory was enough for, and counts what did not go smoothly."""

    def __init__(self, runner: Runner, open_fp32: Callable[[], Runner | None], limits: GuardLimits | None) -> None:
        """Take a runner.

        Args:
            runner: stays the caller's.
            open_fp32: gives another runner of the same network in FP32, or None; asked when a guard objects.
            limits: of the guards; None: results are not looked at.
        """
        self._runner = runner
        self._open_fp32 = open_fp32
        self._limits = limits
        self.halo = 0
        """Overlap of the tiles of a window that is too large."""
        self.blend = 0
        """Over how much of it they are blended."""
        self.tile_limit: int | None = None
        """Core of the largest tile that is tried, since a larger one did not fit; None: none has failed yet."""
        self.halvings = 0
        """How often a tile had to be halved."""
        self.recomputed = 0
        """Tiles computed again in FP32."""

    def start(self, samples: Pixels) -> TileResult:
        """Upscale a window; on a GPU this returns before it is done.

        Args:
            samples: the window, H x W x C.

        Raises:
            OutOfMemoryError: there is no memory for small tiles either.
            BackendError: the runner failed.
        """
        if runs_on_device(self._runner, samples) and self._fits(max(samples.shape[:2])):
            try:
                return infer_on_device(cast(DeviceRunner, self._runner), samples)
            except OutOfMemoryError as error:
                self._halve(max(samples.shape[:2]) - 2 * self.halo, error)
        return HostResult(self._infer(self._runner, to_window(samples, self._runner.spec.channels)))

    def check(self, result: TileResult, samples: Pixels, tile: Tile) -> tuple[TileResult, str | None]:
        """What is used of a window's result, and what is wrong with it; another thread may call this beside `start`.

        Args:
            result: from `start`.
            samples: the window.
            tile: its place.
        """
        used = result.crop(*tile.used(self._runner.spec.scale))
        if self._limits is None:
            return used, None
        lr_used = to_window(samples, self._runner.spec.channels)[:, :, *tile.used(1)]
        return used, self._find_problem(lr_used, used, self._limits)

    def recompute(self, problem: str, samples: Pixels, tile: Tile) -> TileResult:
        """What is used of a window's result, in FP32.

        Args:
            problem: from `check`.
            samples: the window.
            tile: its place.

        Raises:
            GuardError: it is no picture of the input, in FP32 too, or there is no FP32.
            BackendError: the FP32 runner failed.
        """
        where = f"{self._runner.spec} gave {problem} in the tile at row {tile.row.start}, column {tile.column.start}"
        fp32 = self._open_fp32()
        if fp32 is None:
            raise GuardError(f"{where}, and there is no FP32 to compute it again; try another --backend, as torch:fp32")
        self.recomputed += 1
        lr_NCHW = to_window(samples, self._runner.spec.channels)
        used = HostResult(self._infer(fp32, lr_NCHW)).crop(*tile.used(self._runner.spec.scale))
        again = self._find_problem(lr_NCHW[:, :, *tile.used(1)], used, self._limits or DEFAULT_LIMITS)
        if again is not None:
            raise GuardError(
                f"{where}, and {fp32.spec} gave {again}: no picture is made of that; check the model with: sr-deploy "
                "verify"
            )
        return used

    def _find_problem(self, lr_used: NDArray[np.float32], used: TileResult, limits: GuardLimits) -> str | None:
        return find_problem(lr_used, measure_statistics(lr_used), used.measure(self._runner.spec.scale), limits)

    def _fits(self, side: int) -> bool:
        return self.tile_limit is None or side <= self.tile_limit + 2 * self.halo

    def _halve(self, core: int, error: OutOfMemoryError) -> None:
        """Try smaller tiles from now on; `core`: what was too large, without its halo."""
        if core // 2 < SMALLEST_TILE:
            raise OutOfMemoryError(
                f"{error}; smaller tiles would be all overlap ({self.halo} pixels on each side): free memory, or use "
                "another device or precision"
            ) from error
        self.halvings += 1
        self.tile_limit = core // 2

    def _infer(self, runner: Runner, lr_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Whole, or in tiles of the window where memory is too small for it."""
        height, width = lr_NCHW.shape[2:]
        spec = runner.spec
        if self._fits(max(height, width)):
            try:
                return runner.infer(lr_NCHW)
            except OutOfMemoryError as error:
                self._halve(max(height, width) - 2 * self.halo, error)
        while True:
            plan = plan_tiles(
                height,
                width,
                tile=self.tile_limit,
                halo=self.halo,
                blend=self.blend,
                multiple=spec.input_multiple,
                profiles=spec.profiles,
            )
            try:
                return join_tiles(runner, lr_NCHW, plan, finite=False)
            except OutOfMemoryError as error:
                self._halve(max(plan.window_height, plan.window_width) - 2 * self.halo, error)
