"""Windows through a runner: fewer or smaller ones when memory runs out, again in FP32 when a guard objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import GuardError, OutOfMemoryError
from sr_deploy.imaging.opening import Pixels
from sr_deploy.runners.protocol import DeviceRunner, Runner
from sr_deploy.upscale.guards import DEFAULT_LIMITS, GuardLimits, find_problem, measure_statistics
from sr_deploy.upscale.pixels import HostResult, TileResult, to_window
from sr_deploy.upscale.plan import Halo, Tile
from sr_deploy.upscale.tiles import join_tiles, plan_tiles

if TYPE_CHECKING:
    from sr_deploy.upscale.device import DevicePipeline

MIN_TILE = 16
"""Core of a tile below which halving stops: the halo is nearly all of it then."""


def runs_on_device(runner: Runner, samples: Pixels) -> bool:
    """Whether a runner takes such samples on a GPU."""
    spec = runner.spec
    on_gpu = isinstance(runner, DeviceRunner) and spec.device.startswith("cuda")
    return on_gpu and samples.dtype == np.uint8 and spec.dtype in ("float32", "float16", "uint8")


@dataclass(frozen=True)
class MemoryLimits:
    """What is tried at most, since more did not fit; None: nothing has failed yet."""

    tile: int | None = None
    """Core of a tile."""
    batch: int | None = None
    """Windows at once."""


@dataclass
class Network:
    """What windows go through, and another runner for what it gets wrong."""

    runner: Runner
    """Stays the caller's."""
    open_fp32: Callable[[], Runner | None]
    """Gives another runner of the same network in FP32, or None; asked when a guard objects."""
    guards: GuardLimits | None
    """What a result is checked for; None: it is not."""
    _pipeline: DevicePipeline | None = None

    @property
    def queue_depth(self) -> int:
        """Batches that wait on the device while another one is checked: a GPU has a queue."""
        return 1 if self.runner.spec.device.startswith("cuda") else 0

    def start(self, windows: Sequence[Pixels]) -> Sequence[TileResult]:
        """Upscale windows of one shape at once; on a GPU this returns before it is done.

        Args:
            windows: each H x W x C.

        Raises:
            OutOfMemoryError: so many, or windows so large, do not fit.
            BackendError: the runner failed.
        """
        if runs_on_device(self.runner, windows[0]):
            if self._pipeline is None:
                from sr_deploy.upscale.device import DevicePipeline  # with it torch, which other backends do without

                self._pipeline = DevicePipeline(cast(DeviceRunner, self.runner))
            return self._pipeline.start(windows)
        channels = self.runner.spec.channels
        sr_NCHW = self.runner.infer(np.concatenate([to_window(samples, channels) for samples in windows]))
        return [HostResult(sr_NCHW[index : index + 1]) for index in range(len(windows))]


@dataclass
class Inference:
    """An image, or several of one size, through a network; counts what did not go smoothly with it."""

    network: Network
    """What computes."""
    limits: MemoryLimits
    """At first those that the image before left."""
    halvings: int = 0
    """How often a tile had to be halved."""
    batch_halvings: int = 0
    """How often a batch had to be halved."""
    recomputed: int = 0
    """Tiles computed again in FP32."""

    def start(self, windows: Sequence[Pixels], halo: Halo) -> list[TileResult]:
        """Upscale windows of one shape at once; on a GPU this returns before it is done.

        Args:
            windows: each H x W x C.
            halo: overlap of the tiles of a window that is too large.

        Raises:
            OutOfMemoryError: there is no memory for small tiles either.
            BackendError: the runner failed.
        """
        results: list[TileResult] = []
        while len(results) < len(windows):
            batch = windows[len(results) :][: self.limits.batch]
            if len(batch) == 1 or not self._fits(max(batch[0].shape[:2]), halo):
                results.append(self._start_one(batch[0], halo))
                continue
            try:
                results += self.network.start(batch)
            except OutOfMemoryError:
                self.batch_halvings += 1
                self.limits = replace(self.limits, batch=len(batch) // 2)
        return results

    def check(self, result: TileResult, samples: Pixels, tile: Tile) -> tuple[TileResult, str | None]:
        """What is used of a window's result, and what is wrong with it; another thread may call this beside `start`.

        Args:
            result: from `start`.
            samples: the window.
            tile: its place.
        """
        spec, guards = self.network.runner.spec, self.network.guards
        used = result.crop(*tile.used(spec.scale))
        if guards is None:
            return used, None
        return used, _find_problem(to_window(samples, spec.channels)[:, :, *tile.used(1)], used, spec.scale, guards)

    def recompute(self, problem: str, samples: Pixels, tile: Tile, halo: Halo) -> TileResult:
        """What is used of a window's result, in FP32.

        Args:
            problem: from `check`.
            samples: the window.
            tile: its place.
            halo: as `start` has it.

        Raises:
            GuardError: it is not a picture of the input, in FP32 too, or there is no FP32.
            BackendError: the FP32 runner failed.
        """
        spec = self.network.runner.spec
        where = f"{spec} gave {problem} in the tile at row {tile.row.start}, column {tile.column.start}"
        fp32 = self.network.open_fp32()
        if fp32 is None:
            raise GuardError(f"{where}, and there is no FP32 to compute it again; try another --backend, in FP32")
        self.recomputed += 1
        lr_NCHW = to_window(samples, spec.channels)
        used = HostResult(self._infer(fp32, lr_NCHW, halo)).crop(*tile.used(spec.scale))
        again = _find_problem(lr_NCHW[:, :, *tile.used(1)], used, spec.scale, self.network.guards or DEFAULT_LIMITS)
        if again is not None:
            raise GuardError(
                f"{where}, and {fp32.spec} gave {again}: no picture is made of that; check the model with: sr-deploy "
                "verify"
            )
        return used

    def _start_one(self, samples: Pixels, halo: Halo) -> TileResult:
        runner, side = self.network.runner, max(samples.shape[:2])
        if runs_on_device(runner, samples) and self._fits(side, halo):
            try:
                return self.network.start([samples])[0]
            except OutOfMemoryError as error:
                self._halve(side, halo, error)
        return HostResult(self._infer(runner, to_window(samples, runner.spec.channels), halo))

    def _fits(self, side: int, halo: Halo) -> bool:
        return self.limits.tile is None or side <= self.limits.tile + 2 * halo.width

    def _halve(self, side: int, halo: Halo, error: OutOfMemoryError) -> None:
        """Try smaller tiles from now on; `side`: of a window that was too large."""
        core = (side - 2 * halo.width) // 2
        if core < MIN_TILE:
            raise OutOfMemoryError(
                f"{error}; smaller tiles would be all overlap ({halo.width} pixels on each side): free memory, or use "
                "another device or precision"
            ) from error
        self.halvings += 1
        self.limits = replace(self.limits, tile=core)

    def _infer(self, runner: Runner, lr_NCHW: NDArray[np.float32], halo: Halo) -> NDArray[np.float32]:
        """Whole, or in tiles of the window where memory is too small for it."""
        height, width = lr_NCHW.shape[2:]
        spec = runner.spec
        if self._fits(max(height, width), halo):
            try:
                return runner.infer(lr_NCHW)
            except OutOfMemoryError as error:
                self._halve(max(height, width), halo, error)
        while True:
            plan = plan_tiles(
                height,
                width,
                tile=self.limits.tile,
                halo=halo.width,
                blend=halo.blend,
                multiple=spec.input_multiple,
                profiles=spec.profiles,
            )
            try:
                return join_tiles(runner, lr_NCHW, plan, finite=False)
            except OutOfMemoryError as error:
                self._halve(max(plan.window_height, plan.window_width), halo, error)


def _find_problem(lr_used: NDArray[np.float32], used: TileResult, scale: int, guards: GuardLimits) -> str | None:
    return find_problem(lr_used, measure_statistics(lr_used), used.measure(scale), guards)
