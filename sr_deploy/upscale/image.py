"""One picture: load a network once, then upscale as many pictures as you like."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self, cast, overload

import numpy as np
from numpy.typing import NDArray

from sr_deploy.backends import BackendChoice
from sr_deploy.backends.registry import get_backend
from sr_deploy.errors import InputError, ShapeError
from sr_deploy.imaging.opening import Pixels
from sr_deploy.model import Model, open_model
from sr_deploy.progress import OnProgress, Progress
from sr_deploy.runners import open_runner
from sr_deploy.runners.protocol import Runner, RunnerSpec
from sr_deploy.upscale.backend import choose_backend, choose_fp32
from sr_deploy.upscale.batch import choose_batch
from sr_deploy.upscale.canvas import Canvas, OnRows
from sr_deploy.upscale.guards import DEFAULT_LIMITS, GuardLimits
from sr_deploy.upscale.inference import Inference, MemoryLimits, Network
from sr_deploy.upscale.memory import free_memory
from sr_deploy.upscale.pixels import require_samples
from sr_deploy.upscale.plan import Cut, Halo, InferencePlan, TilePlan
from sr_deploy.upscale.planning import SEAM_BUDGET_DB, PlanSettings, plan_image
from sr_deploy.upscale.probe import probe_halo
from sr_deploy.upscale.result import Upscaled, UpscaleReport
from sr_deploy.upscale.rows import InputRows
from sr_deploy.upscale.tile_pipeline import Window, cut_windows, upscale_windows

__all__ = ["UpscaleReport", "Upscaled", "Upscaler"]

_MANY = 1000  # frames of a video, for all that is known


class Upscaler:
    """A network that upscales pictures of any size, whole or in overlapping tiles.

    Safe to share between threads: calls run one at a time. Example::

        with Upscaler("deployments/demo") as upscale:
            sr = upscale(lr)  # H x W x 3 uint8 -> (H * scale) x (W * scale) x 3 uint8
    """

    def __init__(
        self,
        model: Path | str | Model | Runner,
        *,
        backend: str | BackendChoice = "auto",
        tile: int | None = None,
        halo: int | None = None,
        seam_budget_db: float = SEAM_BUDGET_DB,
        guards: GuardLimits | None = DEFAULT_LIMITS,
        device: str | None = None,
        threads: int | None = None,
        batch: int | None = None,
    ) -> None:
        """Load a network.

        Args:
            model: a checkpoint, graph, bundle or engine (a path, or opened), or a runner, which stays the caller's to
                close.
            backend: `auto` or as in `openvino:fp32`; a runner has its own.
            tile: side of a tile's core in input pixels; 0: always the whole picture; None: whole if small, else what
                the halo and the free memory suggest. Where memory runs out it is halved.
            halo: overlap on each side of a tile; None: as far as the network sees, or, beyond `MAX_HALO`, what keeps
                the seams to their budget.
            seam_budget_db: PSNR that blended seams should reach; only asked where a network sees beyond the halo.
            guards: what a result is checked for; None: it is not.
            device: `cpu` or `cuda:1`; None: a GPU where the backend has one. A runner has its own.
            threads: of the CPU; None: one a core.
            batch: tiles that go through the network at once, where there are so many and the runner takes them; None:
                what a measurement finds on a GPU, 1 on a CPU. Where memory runs out it is halved.

        Raises:
            InputError: no such model, or `backend` or `device` given together with a runner.
            ShapeError: a negative tile or halo, or a batch below 1.
            BackendError: the backend does not run here.
        """
        for name, value in (("tile", tile), ("halo", halo)):
            if value is not None and value < 0:
                raise ShapeError(f"{name} must be 0 or more pixels, not {value}")
        if batch is not None and batch < 1:
            raise ShapeError(f"batch must be 1 or more tiles, not {batch}")
        self.asked_batch = batch
        self._device = device
        self._threads = threads
        self._lock = threading.Lock()
        self._model: Model | None = None
        if isinstance(model, (Path, str, Model)):
            self._model = model if isinstance(model, Model) else open_model(Path(model))
            choice = choose_backend(self._model, backend, device, threads)
            self._runner = open_runner(self._model, choice, device=device, threads=threads)
        else:
            if backend != "auto":
                raise InputError(f"this runner computes with {model.spec}; leave backend={str(backend)!r} out")
            if device is not None:
                raise InputError(f"this runner computes on {model.spec.device}; leave device={device!r} out")
            self._runner = model
        self._fp32: Runner | None = None
        self._network = Network(self._runner, self._open_fp32, guards)
        self._limits = MemoryLimits()
        self._seam_budget_db = seam_budget_db
        self._settings = PlanSettings.of(self._model, self._runner.spec, tile, halo, batch)
        self._halo = self._settings.halo

    @property
    def spec(self) -> RunnerSpec:
        """What computes, where, and by which scale."""
        return self._runner.spec

    @property
    def receptive_radius(self) -> int | None:
        """How far the network looks around a pixel, in input pixels; None if nothing tells."""
        return self._settings.receptive_radius

    @property
    def halo(self) -> int:
        """Overlap on each side of a tile; where the network sees beyond it, the next picture may choose another."""
        return self._halo.width

    def plan(self, height: int, width: int) -> TilePlan:
        """How a picture of that size will be cut.

        Raises:
            ShapeError: an empty picture, or no profile of the engine takes it.
        """
        return self._cut(height, width, self._halo, self._limits)

    @overload
    def __call__(self, image: NDArray[np.uint8], *, on_progress: OnProgress | None = None) -> NDArray[np.uint8]: ...
    @overload
    def __call__(self, image: NDArray[np.uint16], *, on_progress: OnProgress | None = None) -> NDArray[np.uint16]: ...
    def __call__(self, image: Pixels, *, on_progress: OnProgress | None = None) -> Pixels:
        """Upscale a picture; as `upscale`, without the report."""
        return self.upscale(image, on_progress=on_progress).image

    def upscale(self, image: Pixels, *, on_progress: OnProgress | None = None) -> Upscaled:
        """Upscale a picture.

        Args:
            image: H x W x C, 8 or 16 bit; C as the network has it, or 1 for an RGB network: the gray is given to all
                three channels, and the mean of the results is taken.
            on_progress: told of each tile.

        Returns:
            (H * scale) x (W * scale) x C, of the same type, and how it was made.

        Raises:
            ShapeError: not such a picture.
            GuardError: what the network gives is not a picture of the input.
            OutOfMemoryError: there is no memory for small tiles either.
            BackendError: the backend failed.
        """
        require_samples(self._runner.spec, image.shape, image.dtype)
        results: list[Pixels] = []
        report = self._upscale(InputRows.of_image(image), results.append, on_progress, whole=True)
        return Upscaled(results[0], report)

    def upscale_rows(self, rows: InputRows, on_rows: OnRows, *, on_progress: OnProgress | None = None) -> UpscaleReport:
        """Upscale a picture of which no more than some rows are in memory.

        As `upscale`, but where a network sees beyond `MAX_HALO`: its halo is chosen on the first rows then, not on all.

        Args:
            rows: the picture.
            on_rows: given the rows of the result, from top to bottom, a row of tiles at a time.
            on_progress: told of each tile.

        Raises:
            As `upscale`.
        """
        require_samples(self._runner.spec, (rows.height, rows.width, rows.channels), rows.held.dtype)
        return self._upscale(rows, on_rows, on_progress, whole=False)

    def upscale_many(self, images: Sequence[Pixels], *, on_progress: OnProgress | None = None) -> list[Pixels]:
        """Upscale pictures of one shape and type; those that need no tiles go through the network several at once.

        Args:
            images: as `upscale` takes them.
            on_progress: told of each picture, in their order.

        Raises:
            ShapeError: pictures that are not alike, or not such pictures.
            As `upscale`, of the first picture that is not finished.
        """
        if not images:
            return []
        first = images[0]
        require_samples(self._runner.spec, first.shape, first.dtype)
        kinds = {(image.shape, str(image.dtype)) for image in images}
        if len(kinds) > 1:
            raise ShapeError(f"pictures of one batch are of one shape and type, not {sorted(kinds)}")
        results: list[Pixels] = []
        tell = _count_up(on_progress, len(images), "pictures")
        with self._computing() as inference:
            self._halo = self._settings.halo
            tiles = self._cut(first.shape[0], first.shape[1], self._halo, inference.limits)
            if tiles.count == 1:
                batch = self._choose_batch(tiles, InputRows.of_image(first), inference, len(images), len(images))
                windows = self._cut_whole(images, tiles, results.append)
                upscale_windows(inference, InferencePlan(tiles, self._halo, batch), windows, tell)
                return results
        for image in images:
            results.append(self.upscale(image).image)
            tell()
        return results

    def freeze(self, image: Pixels, cut: Cut | None = None) -> Cut:
        """Cut all pictures alike from now on, as frames of one video have to be.

        Args:
            image: the first of them, on which the halo is chosen where the network sees beyond `MAX_HALO`.
            cut: of an earlier call, to do as then; None: decide now.
        """
        with self._computing() as inference:
            if cut is None:
                rows = InputRows.of_image(image)
                halo = self._choose_halo(rows, inference)
                cut = Cut(self._settings.find_default_tile(halo, self._find_free()), halo.width)
                settings, limit = self._settings.freeze(cut), inference.limits.tile
                tiles = plan_image(rows.height, rows.width, settings, halo, free=None, tile_limit=limit)
                max_count = None if tiles.count == 1 else tiles.count
                cut = replace(cut, batch=self._choose_batch(tiles, rows, inference, max_count, _MANY))
            self._settings = self._settings.freeze(cut)
            self._halo = self._settings.halo
        return cut

    def count_batch(self, height: int, width: int) -> int:
        """How many pictures of that size to give to `upscale_many` at once, after `freeze`; 1 where they need tiles."""
        frozen = self._settings.frozen
        return 1 if frozen is None or self.plan(height, width).count > 1 else frozen.batch

    @contextmanager
    def _computing(self) -> Iterator[Inference]:
        """One picture at a time, which begins with the limits that the one before found."""
        with self._lock:
            inference = Inference(self._network, self._limits)
            try:
                yield inference
            finally:
                self._limits = inference.limits

    def _upscale(
        self, rows: InputRows, on_rows: OnRows, on_progress: OnProgress | None, *, whole: bool
    ) -> UpscaleReport:
        with self._computing() as inference:
            started = time.perf_counter()
            self._halo = self._choose_halo(rows, inference)
            tiles = self._cut(rows.height, rows.width, self._halo, inference.limits)
            batch = self._choose_batch(tiles, rows, inference, tiles.count, tiles.count)
            canvas = Canvas(tiles, rows, self._runner.spec.scale, on_rows, whole=whole)
            plan = InferencePlan(tiles, self._halo, batch)
            upscale_windows(
                inference, plan, cut_windows(rows, tiles, canvas), _count_up(on_progress, tiles.count, "tiles")
            )
            return UpscaleReport(
                tiles=tiles.count,
                window=(tiles.window_height, tiles.window_width),
                halo=tiles.halo,
                blend=tiles.blend,
                recomputed=inference.recomputed,
                seam_db=canvas.seam_db,
                seam_budget_db=self._seam_budget_db,
                halvings=inference.halvings,
                tile_limit=inference.limits.tile,
                batch=batch,
                batch_halvings=inference.batch_halvings,
                seconds=time.perf_counter() - started,
            )

    def _choose_halo(self, rows: InputRows, inference: Inference) -> Halo:
        """Where the network sees further than can be paid for, chosen on the picture itself.

        Anew for each picture: its result does not depend on earlier ones.
        """
        settings, spec = self._settings, self._runner.spec
        if not settings.wants_probe:
            return settings.halo
        tiles = self._cut(rows.height, rows.width, settings.halo, inference.limits)
        if tiles.count == 1:
            return settings.halo
        rows.hold(0, tiles.window_height)
        width = probe_halo(
            lambda window: inference.start([window], settings.halo)[0].read(),
            rows.held,
            self._seam_budget_db,
            scale=spec.scale,
            multiple=spec.input_multiple,
            window=(tiles.window_height, tiles.window_width) if spec.profiles else None,
        )
        return settings.halo if width is None else settings.limit_halo(width)

    def _cut(self, height: int, width: int, halo: Halo, limits: MemoryLimits) -> TilePlan:
        return plan_image(height, width, self._settings, halo, free=self._find_free(), tile_limit=limits.tile)

    def _find_free(self) -> int | None:
        """Free memory where tiles depend on it."""
        settings = self._settings
        return free_memory(settings.spec.device) if settings.bytes_per_pixel and settings.frozen is None else None

    def _choose_batch(
        self, tiles: TilePlan, rows: InputRows, inference: Inference, max_count: int | None, to_come: int
    ) -> int:
        window = cast("Pixels", np.empty((tiles.window_height, tiles.window_width, rows.channels), rows.held.dtype))
        limits = (max_count, inference.limits.batch)
        return choose_batch(self._network, window, asked=self._settings.batch, to_come=to_come, limits=limits)

    def _cut_whole(self, images: Sequence[Pixels], tiles: TilePlan, on_rows: OnRows) -> Iterator[Window]:
        for image in images:
            rows = InputRows.of_image(image)
            yield from cut_windows(rows, tiles, Canvas(tiles, rows, self._runner.spec.scale, on_rows, whole=True))

    def close(self) -> None:
        """Release the network, unless it was given as a runner."""
        if self._fp32 is not None and self._fp32 is not self._runner:
            self._fp32.close()
        if self._model is not None:
            self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _open_fp32(self) -> Runner | None:
        """Another runner of this network in FP32; this one where there is no other."""
        if self._fp32 is None:
            spec = self._runner.spec
            choice = choose_fp32(self._model, spec.choice) if self._model else None
            if self._model is not None and choice is not None:
                # PyTorch computes where this runner does; others compute on the CPU here.
                self._fp32 = open_runner(
                    self._model,
                    choice,
                    device=self._device if get_backend(choice.backend).is_on_device else None,
                    threads=self._threads,
                )
            elif spec.precision == "fp32":
                self._fp32 = self._runner
        return self._fp32


def _count_up(on_progress: OnProgress | None, total: int, unit: str) -> Callable[[], None]:
    """Tells 1, 2, 3 with each call."""
    numbers = itertools.count(1)
    return lambda: None if on_progress is None else on_progress(Progress("upscaling", next(numbers), total, unit))
