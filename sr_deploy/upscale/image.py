"""One picture: load a network once, then upscale as many pictures as you like."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, overload

import numpy as np
from numpy.typing import NDArray

from sr_deploy.backends import BackendChoice
from sr_deploy.errors import InputError, ShapeError
from sr_deploy.imaging.opening import Pixels
from sr_deploy.model import Model, open_model
from sr_deploy.runners import open_runner
from sr_deploy.runners.protocol import Runner, RunnerSpec
from sr_deploy.upscale.backend import choose_backend, choose_fp32, find_receptive_radius
from sr_deploy.upscale.canvas import Canvas
from sr_deploy.upscale.device import runs_on_device
from sr_deploy.upscale.guards import DEFAULT_LIMITS, GuardLimits
from sr_deploy.upscale.inference import Inference
from sr_deploy.upscale.memory import choose_tile, estimate_bytes_per_pixel, free_memory
from sr_deploy.upscale.pixels import TileResult
from sr_deploy.upscale.plan import Tile, TilePlan
from sr_deploy.upscale.probe import blend_of, probe_halo
from sr_deploy.upscale.report import Upscaled, UpscaleReport
from sr_deploy.upscale.tiles import DEFAULT_TILE, MAX_HALO, cut_window, plan_tiles

__all__ = ["UpscaleReport", "Upscaled", "Upscaler"]

OnTile = Callable[[int, int], None]
"""Called after each tile with the number done and the number of all."""

SEAM_BUDGET_DB = 60.0
"""Errors a quarter of a step of 8 bit: nothing that a file could show."""


class Upscaler:
    """A network that upscales pictures of any size, whole or in overlapping tiles.

    Safe to share between threads: calls take turns, whatever the backend. Example::

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

        Raises:
            InputError: no such model, or `backend` given together with a runner.
            ShapeError: a negative tile or halo.
            BackendError: the backend does not run here.
        """
        for name, value in (("tile", tile), ("halo", halo)):
            if value is not None and value < 0:
                raise ShapeError(f"{name} must be 0 or more pixels, not {value}")
        self._tile = tile
        self._lock = threading.Lock()
        self._bytes_per_pixel: float | None = None
        self._model: Model | None = None
        if isinstance(model, (Path, str, Model)):
            self._model = model if isinstance(model, Model) else open_model(Path(model))
            self._runner = open_runner(self._model, choose_backend(self._model, backend))
        else:
            if backend != "auto":
                raise InputError(f"this runner computes with {model.spec}; leave backend={str(backend)!r} out")
            self._runner = model
        self._fp32: Runner | None = None
        self._inference = Inference(self._runner, self._open_fp32, guards)
        self.receptive_radius = find_receptive_radius(self._model) if self._model is not None else None
        self._seam_budget_db = seam_budget_db
        self._wants_probe = halo is None
        self._use_halo(self._reach(MAX_HALO) if halo is None else halo)

    @property
    def spec(self) -> RunnerSpec:
        """What computes, where, and by which scale."""
        return self._runner.spec

    @property
    def halo(self) -> int:
        """Overlap on each side of a tile; where the network sees beyond it, the next picture may choose another."""
        return self._inference.halo

    def plan(self, height: int, width: int) -> TilePlan:
        """How a picture of that size will be cut.

        Raises:
            ShapeError: an empty picture, or no profile of the engine takes it.
        """
        spec, limit, tile = self._runner.spec, self._inference.tile_limit, self._tile
        if limit is not None:
            tile = min(tile or limit, limit)
        return plan_tiles(
            height,
            width,
            tile=tile,
            halo=self._inference.halo,
            blend=self._inference.blend,
            multiple=spec.input_multiple,
            profiles=spec.profiles,
            default_tile=self._choose_tile() if tile is None else DEFAULT_TILE,
        )

    @overload
    def __call__(self, image: NDArray[np.uint8], on_tile: OnTile | None = None) -> NDArray[np.uint8]: ...
    @overload
    def __call__(self, image: NDArray[np.uint16], on_tile: OnTile | None = None) -> NDArray[np.uint16]: ...
    def __call__(self, image: Pixels, on_tile: OnTile | None = None) -> Pixels:
        """Upscale a picture; as `upscale`, without the report."""
        return self.upscale(image, on_tile).image

    def upscale(self, image: Pixels, on_tile: OnTile | None = None) -> Upscaled:
        """Upscale a picture.

        Args:
            image: H x W x C, 8 or 16 bit; C as the network has it, or 1 for an RGB network: the gray is given to all
                three channels, and the mean of the results is taken.
            on_tile: told about progress.

        Returns:
            (H * scale) x (W * scale) x C, of the same type, and how it was made.

        Raises:
            ShapeError: not such a picture.
            GuardError: what the network gives is no picture of the input.
            OutOfMemoryError: there is no memory for small tiles either.
            BackendError: the backend failed.
        """
        self._require_samples(image)
        with self._lock:
            started = time.perf_counter()
            inference = self._inference
            halvings, recomputed = inference.halvings, inference.recomputed
            self._probe(image)
            plan = self.plan(*image.shape[:2])
            result, seam_db = self._run(image, plan, on_tile)
            if seam_db is not None and seam_db < self._seam_budget_db:
                self._probed = False  # the next picture looks again
            report = UpscaleReport(
                tiles=plan.count,
                window=(plan.window_height, plan.window_width),
                halo=plan.halo,
                blend=plan.blend,
                recomputed=inference.recomputed - recomputed,
                seam_db=seam_db,
                seam_budget_db=self._seam_budget_db,
                halvings=inference.halvings - halvings,
                tile_limit=inference.tile_limit,
                seconds=time.perf_counter() - started,
            )
        return Upscaled(result, report)

    def close(self) -> None:
        """Release the network, unless it was given as a runner."""
        if self._fp32 is not None and self._fp32 is not self._runner:
            self._fp32.close()
        if self._model is not None:
            self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _require_samples(self, image: Pixels) -> None:
        spec = self._runner.spec
        shape = " x ".join(map(str, image.shape)) or "no axes"
        if image.dtype not in (np.uint8, np.uint16) or image.ndim != 3 or image.shape[2] not in (1, spec.channels):
            channels = "3 (or 1: gray)" if spec.channels == 3 else str(spec.channels)
            raise ShapeError(f"{spec} takes 8- and 16-bit pictures H x W x {channels}, not {shape} of {image.dtype}")
        if min(image.shape) < 1:
            raise ShapeError(f"a picture needs at least one pixel, not {image.shape[1]}x{image.shape[0]}")
        if image.dtype == np.uint16 and spec.dtype == "uint8":
            raise ShapeError(
                f"{spec} has ends of 8 bit ({spec.artefact}) and would lose what a 16-bit picture has more; convert "
                "the picture, or export without --ends uint8"
            )

    def _run(self, image: Pixels, plan: TilePlan, on_tile: OnTile | None) -> tuple[Pixels, float | None]:
        """The picture, and how well seams agree."""
        canvas = Canvas(plan, image, self._runner.spec.scale)
        ahead = 1 if runs_on_device(self._runner, image) else 0  # a GPU computes while the tile before is put in place
        waiting: deque[tuple[Tile, Pixels, TileResult]] = deque()
        done = 0

        def finish_one() -> None:
            nonlocal done
            tile, window, result = waiting.popleft()
            canvas.put(tile, self._inference.finish(result, window, tile))
            done += 1
            if on_tile is not None:
                on_tile(done, plan.count)

        for tile in plan.tiles():
            window = cut_window(image, plan, tile, axis=0)
            waiting.append((tile, window, self._inference.start(window)))
            if len(waiting) > ahead:
                finish_one()
        while waiting:
            finish_one()
        return canvas.take_image(), canvas.seam_db

    def _reach(self, most: int) -> int:
        return most if self.receptive_radius is None else min(self.receptive_radius, most)

    def _use_halo(self, halo: int) -> None:
        sees_all = self.receptive_radius is not None and self.receptive_radius <= halo
        self._inference.halo = halo
        self._inference.blend = 0 if sees_all else blend_of(halo)
        self._probed = sees_all or not self._wants_probe

    def _probe(self, image: Pixels) -> None:
        """Choose the halo on the picture itself, where the network sees further than can be paid for."""
        if self._probed:
            return
        plan = self.plan(*image.shape[:2])
        if plan.count == 1:
            return
        spec = self._runner.spec
        found = probe_halo(
            lambda window: self._inference.start(window).read(),
            image,
            self._seam_budget_db,
            scale=spec.scale,
            multiple=spec.input_multiple,
            window=(plan.window_height, plan.window_width) if spec.profiles else None,
        )
        if found is not None:
            self._use_halo(self._reach(found.width))
            self._probed = True

    def _choose_tile(self) -> int:
        if self._bytes_per_pixel is None and self._model is not None:
            self._bytes_per_pixel = estimate_bytes_per_pixel(self._model) or 0.0
        return choose_tile(self.halo, self._bytes_per_pixel, free_memory(self._runner.spec.device))

    def _open_fp32(self) -> Runner | None:
        """Another runner of this network in FP32; this one where there is no other."""
        if self._fp32 is None:
            spec = self._runner.spec
            choice = choose_fp32(self._model, BackendChoice(spec.backend, spec.precision)) if self._model else None
            if self._model is not None and choice is not None:
                self._fp32 = open_runner(self._model, choice)
            elif spec.precision == "fp32":
                self._fp32 = self._runner
        return self._fp32
