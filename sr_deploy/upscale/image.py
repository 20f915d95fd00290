"""One picture: load a network once, then upscale as many pictures as you like."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, overload

import numpy as np
from numpy.typing import NDArray

from sr_deploy.backends import BackendChoice
from sr_deploy.backends.registry import get_backend
from sr_deploy.errors import InputError, ShapeError
from sr_deploy.imaging.opening import Pixels
from sr_deploy.model import Model, open_model
from sr_deploy.runners import open_runner
from sr_deploy.runners.protocol import Runner, RunnerSpec
from sr_deploy.upscale.backend import choose_backend, choose_fp32
from sr_deploy.upscale.canvas import Canvas, OnRows
from sr_deploy.upscale.cutter import SEAM_BUDGET_DB, Cutter
from sr_deploy.upscale.guards import DEFAULT_LIMITS, GuardLimits
from sr_deploy.upscale.inference import Inference
from sr_deploy.upscale.pixels import require_samples
from sr_deploy.upscale.plan import Cut, TilePlan
from sr_deploy.upscale.result import Upscaled, UpscaleReport
from sr_deploy.upscale.rows import InputRows
from sr_deploy.upscale.tile_pipeline import OnTile, cut_windows, upscale_whole, upscale_windows

__all__ = ["UpscaleReport", "Upscaled", "Upscaler"]


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
        self._inference = Inference(self._runner, self._open_fp32, guards, batch)
        self._seam_budget_db = seam_budget_db
        self._cutter = Cutter(
            self._model,
            self._runner.spec,
            self._inference,
            tile=tile,
            halo=halo,
            batch=batch,
            seam_budget_db=seam_budget_db,
        )

    @property
    def spec(self) -> RunnerSpec:
        """What computes, where, and by which scale."""
        return self._runner.spec

    @property
    def receptive_radius(self) -> int | None:
        """How far the network looks around a pixel, in input pixels; None if nothing tells."""
        return self._cutter.receptive_radius

    @property
    def halo(self) -> int:
        """Overlap on each side of a tile; where the network sees beyond it, the next picture may choose another."""
        return self._inference.halo

    def plan(self, height: int, width: int) -> TilePlan:
        """How a picture of that size will be cut.

        Raises:
            ShapeError: an empty picture, or no profile of the engine takes it.
        """
        return self._cutter.plan(height, width)

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
            GuardError: what the network gives is not a picture of the input.
            OutOfMemoryError: there is no memory for small tiles either.
            BackendError: the backend failed.
        """
        require_samples(self._runner.spec, image.shape, image.dtype)
        results: list[Pixels] = []
        report = self._upscale(InputRows.of_image(image), results.append, on_tile, whole=True)
        return Upscaled(results[0], report)

    def upscale_rows(self, rows: InputRows, on_rows: OnRows, on_tile: OnTile | None = None) -> UpscaleReport:
        """Upscale a picture of which no more than some rows are in memory.

        As `upscale`, but where a network sees beyond `MAX_HALO`: its halo is chosen on the first rows then, not on all.

        Args:
            rows: the picture.
            on_rows: given the rows of the result, from top to bottom, a row of tiles at a time.
            on_tile: told about progress.

        Raises:
            As `upscale`.
        """
        require_samples(self._runner.spec, (rows.height, rows.width, rows.channels), rows.held.dtype)
        return self._upscale(rows, on_rows, on_tile, whole=False)

    def upscale_many(self, images: Sequence[Pixels], on_image: OnTile | None = None) -> list[Pixels]:
        """Upscale pictures of one shape and type; those that need no tiles go through the network several at once.

        Args:
            images: as `upscale` takes them.
            on_image: told about progress, in the order of `images`.

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
        tell = _count_up(on_image, len(images))
        with self._lock:
            plan = self._cutter.plan_afresh(first.shape[0], first.shape[1])
            if plan.count == 1:
                batch = self._cutter.choose_batch(plan, InputRows.of_image(first), len(images))
                upscale_whole(
                    self._inference,
                    images,
                    plan,
                    batch=batch,
                    scale=self._runner.spec.scale,
                    results=results,
                    on_image=tell,
                )
                return results
        for image in images:
            results.append(self.upscale(image).image)
            tell()
        return results

    def _upscale(self, rows: InputRows, on_rows: OnRows, on_tile: OnTile | None, *, whole: bool) -> UpscaleReport:
        with self._lock:
            started = time.perf_counter()
            inference = self._inference
            halvings, batch_halvings, recomputed = inference.halvings, inference.batch_halvings, inference.recomputed
            plan = self._cutter.plan_for(rows)
            canvas = Canvas(plan, rows, self._runner.spec.scale, on_rows, whole=whole)
            batch = self._cutter.choose_batch(plan, rows, plan.count)
            upscale_windows(inference, cut_windows(rows, plan, canvas), batch, _count_up(on_tile, plan.count))
            return UpscaleReport(
                tiles=plan.count,
                window=(plan.window_height, plan.window_width),
                halo=plan.halo,
                blend=plan.blend,
                recomputed=inference.recomputed - recomputed,
                seam_db=canvas.seam_db,
                seam_budget_db=self._seam_budget_db,
                halvings=inference.halvings - halvings,
                tile_limit=inference.tile_limit,
                batch=batch,
                batch_halvings=inference.batch_halvings - batch_halvings,
                seconds=time.perf_counter() - started,
            )

    def freeze(self, image: Pixels, cut: Cut | None = None) -> Cut:
        """Cut all pictures alike from now on, as frames of one video have to be.

        Args:
            image: the first of them, on which the halo is chosen where the network sees beyond `MAX_HALO`.
            cut: of an earlier call, to do as then; None: decide now.
        """
        with self._lock:
            return self._cutter.freeze(InputRows.of_image(image), cut)

    def count_batch(self, height: int, width: int) -> int:
        """How many pictures of that size to give to `upscale_many` at once, after `freeze`; 1 where they need tiles."""
        frozen = self._cutter.frozen
        return 1 if frozen is None or self.plan(height, width).count > 1 else frozen.batch

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


def _count_up(told: OnTile | None, of: int) -> Callable[[], None]:
    """Tells 1, 2, 3 with each call."""
    numbers = itertools.count(1)
    return lambda: None if told is None else told(next(numbers), of)
