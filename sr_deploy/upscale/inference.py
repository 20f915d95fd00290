"""Windows through a runner: fewer or smaller ones when memory runs out, again in FP32 when a guard objects."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import GuardError, OutOfMemoryError
from sr_deploy.imaging.opening import Pixels
from sr_deploy.runners.protocol import DeviceRunner, Runner
from sr_deploy.upscale.batch import MIN_WINDOWS, choose_batch, find_max_batch
from sr_deploy.upscale.guards import DEFAULT_LIMITS, GuardLimits, find_problem, measure_statistics
from sr_deploy.upscale.pixels import HostResult, TileResult, to_window
from sr_deploy.upscale.plan import Tile
from sr_deploy.upscale.tiles import join_tiles, plan_tiles

if TYPE_CHECKING:
    from sr_deploy.upscale.device import DevicePipeline

MIN_TILE = 16
"""Core of a tile below which halving stops: the halo is nearly all of it then."""
_MEASURED: WeakKeyDictionary[Runner, dict[tuple[int, ...], int]] = WeakKeyDictionary()
"""Batches that were chosen in this process: for each runner and shape of a window."""
_WARM_UPS, _TIMED = 2, 3  # calls; a CUDA graph is captured in the second one


def runs_on_device(runner: Runner, samples: Pixels) -> bool:
    """Whether a runner takes such samples on a GPU."""
    spec = runner.spec
    on_gpu = isinstance(runner, DeviceRunner) and spec.device.startswith("cuda")
    return on_gpu and samples.dtype == np.uint8 and spec.dtype in ("float32", "float16", "uint8")


class Inference:
    """Remembers the tile that memory was enough for, and counts what did not go smoothly."""

    def __init__(
        self,
        runner: Runner,
        open_fp32: Callable[[], Runner | None],
        limits: GuardLimits | None,
        batch: int | None = None,
    ) -> None:
        """Take a runner.

        Args:
            runner: stays the caller's.
            open_fp32: gives another runner of the same network in FP32, or None; asked when a guard objects.
            limits: of the guards; None: results are not looked at.
            batch: windows that go through the network at once, if there are so many; None: measured on a GPU, 1 on a
                CPU.
        """
        self._runner = runner
        self._open_fp32 = open_fp32
        self._limits = limits
        self._batch = batch
        self._pipeline: DevicePipeline | None = None
        self.halo = 0
        """Overlap of the tiles of a window that is too large."""
        self.blend = 0
        """Over how much of it they are blended."""
        self.tile_limit: int | None = None
        """Core of the largest tile that is tried, since a larger one did not fit; None: none has failed yet."""
        self.halvings = 0
        """How often a tile had to be halved."""
        self.batch_limit: int | None = None
        """Largest batch that is tried, since a larger one did not fit; None: none has failed yet."""
        self.batch_halvings = 0
        """How often a batch had to be halved."""
        self.recomputed = 0
        """Tiles computed again in FP32."""

    @property
    def queue_depth(self) -> int:
        """Batches that wait on the device while another one is checked: a GPU has a queue."""
        return 1 if self._runner.spec.device.startswith("cuda") else 0

    def choose_batch(self, window: Pixels, max_count: int | None, to_come: int) -> int:
        """How many windows go through the network at once.

        Args:
            window: of their shape and type; what is in it does not matter.
            max_count: windows that there are; None: any number.
            to_come: how many there will be, which decides whether a measurement pays.
        """
        takes = find_max_batch(self._runner.spec.profiles, *window.shape[:2])
        limits = [limit for limit in (max_count, takes, self.batch_limit) if limit is not None]
        if self._batch is not None or not runs_on_device(self._runner, window):
            return min([self._batch or 1, *limits])
        known = _MEASURED.setdefault(self._runner, {})
        if window.shape not in known:
            if to_come < MIN_WINDOWS:
                return 1
            known[window.shape] = self.measure_batch(window, takes)
        return min([known[window.shape], *limits])

    def measure_batch(self, window: Pixels, takes: int | None = None) -> int:
        """Time batches of such windows, from samples on the host to results where they are computed.

        Args:
            window: of their shape and type; what is in it does not matter.
            takes: the largest batch that the runner takes; None: any.
        """
        highest = np.iinfo(window.dtype).max
        noise = np.random.default_rng(0).integers(0, highest, window.shape, window.dtype, endpoint=True)

        def time_call(size: int) -> float:
            def call() -> None:
                self._start_whole([noise] * size)[-1].crop(slice(0, 1), slice(0, 1)).read()  # waits for it

            for _ in range(_WARM_UPS):
                call()
            started = time.perf_counter()
            for _ in range(_TIMED):
                call()
            return (time.perf_counter() - started) / _TIMED

        return choose_batch(time_call, takes)

    def start(self, windows: Sequence[Pixels]) -> list[TileResult]:
        """Upscale windows of one shape at once; on a GPU this returns before it is done.

        Args:
            windows: each H x W x C.

        Raises:
            OutOfMemoryError: there is no memory for small tiles either.
            BackendError: the runner failed.
        """
        results: list[TileResult] = []
        while len(results) < len(windows):
            batch = windows[len(results) :][: self.batch_limit]
            if len(batch) == 1 or not self._fits(max(batch[0].shape[:2])):
                results.append(self._start_one(batch[0]))
                continue
            try:
                results += self._start_whole(batch)
            except OutOfMemoryError:
                self.batch_halvings += 1
                self.batch_limit = len(batch) // 2
        return results

    def _start_one(self, samples: Pixels) -> TileResult:
        if runs_on_device(self._runner, samples) and self._fits(max(samples.shape[:2])):
            try:
                return self._start_on_device([samples])[0]
            except OutOfMemoryError as error:
                self._halve(max(samples.shape[:2]) - 2 * self.halo, error)
        return HostResult(self._infer(self._runner, to_window(samples, self._runner.spec.channels)))

    def _start_whole(self, windows: Sequence[Pixels]) -> Sequence[TileResult]:
        if runs_on_device(self._runner, windows[0]):
            return self._start_on_device(windows)
        channels = self._runner.spec.channels
        sr_NCHW = self._runner.infer(np.concatenate([to_window(samples, channels) for samples in windows]))
        return [HostResult(sr_NCHW[index : index + 1]) for index in range(len(windows))]

    def _start_on_device(self, windows: Sequence[Pixels]) -> Sequence[TileResult]:
        if self._pipeline is None:
            from sr_deploy.upscale.device import DevicePipeline  # and with it torch, which other backends do without

            self._pipeline = DevicePipeline(cast(DeviceRunner, self._runner))
        return self._pipeline.start(windows)

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
            GuardError: it is not a picture of the input, in FP32 too, or there is no FP32.
            BackendError: the FP32 runner failed.
        """
        where = f"{self._runner.spec} gave {problem} in the tile at row {tile.row.start}, column {tile.column.start}"
        fp32 = self._open_fp32()
        if fp32 is None:
            raise GuardError(f"{where}, and there is no FP32 to compute it again; try another --backend, in FP32")
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
        if core // 2 < MIN_TILE:
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
