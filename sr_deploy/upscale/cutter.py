"""How pictures are cut for a network: the halo, the size of a tile, and the batch size."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np

from sr_deploy.imaging.opening import Pixels
from sr_deploy.model import Model
from sr_deploy.runners.cost import find_cost
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.upscale.inference import Inference
from sr_deploy.upscale.memory import choose_tile, estimate_bytes_per_pixel, free_memory
from sr_deploy.upscale.plan import Cut, TilePlan
from sr_deploy.upscale.probe import blend_of, probe_halo
from sr_deploy.upscale.rows import InputRows
from sr_deploy.upscale.tiles import DEFAULT_TILE, MAX_HALO, plan_tiles

SEAM_BUDGET_DB = 60.0
"""Errors a quarter of a step of 8 bit: nothing that a file could show."""
_MANY = 1000  # frames of a video, for all that is known


class Cutter:
    """Decides for each picture anew, or for all alike once a `Cut` is frozen. Sets the halo of `inference`."""

    def __init__(
        self,
        model: Model | None,
        spec: RunnerSpec,
        inference: Inference,
        *,
        tile: int | None,
        halo: int | None,
        batch: int | None,
        seam_budget_db: float,
    ) -> None:
        """Begin with the halo that is asked for, or as far as the network sees, up to `MAX_HALO`.

        Args:
            model: the network's; None: only its runner is known.
            spec: of the runner.
            inference: computes, and knows what memory was enough for.
            tile: as `Upscaler` has it.
            halo: as `Upscaler` has it.
            batch: as `Upscaler` has it.
            seam_budget_db: as `Upscaler` has it.
        """
        cost = find_cost(model) if model is not None else None
        self.receptive_radius = cost.receptive_radius if cost is not None else None
        """How far the network looks around a pixel; None: unknown."""
        self.frozen: Cut | None = None
        """What holds for all pictures; None: each has its own."""
        self._model = model
        self._spec = spec
        self._inference = inference
        self._tile = tile
        self._batch = batch
        self._seam_budget_db = seam_budget_db
        self._bytes_per_pixel: float | None = None
        self._halo = self._limit_to_radius(MAX_HALO) if halo is None else halo
        self._wants_probe = halo is None and not self._sees_all(self._halo)
        self._use_halo(self._halo)

    def plan(self, height: int, width: int) -> TilePlan:
        """How a picture of that size will be cut.

        Raises:
            ShapeError: an empty picture, or no profile of the engine takes it.
        """
        limit, tile = self._inference.tile_limit, self._tile
        if limit is not None:
            tile = min(tile or limit, limit)
        return plan_tiles(
            height,
            width,
            tile=tile,
            halo=self._inference.halo,
            blend=self._inference.blend,
            multiple=self._spec.input_multiple,
            profiles=self._spec.profiles,
            default_tile=self._choose_tile() if tile is None else DEFAULT_TILE,
        )

    def plan_afresh(self, height: int, width: int) -> TilePlan:
        """The same as if no picture had been before."""
        if self.frozen is None and self._wants_probe:
            self._use_halo(self._halo)
        return self.plan(height, width)

    def plan_for(self, rows: InputRows) -> TilePlan:
        """How this picture is cut.

        Where the network sees further than can be paid for, its halo is chosen on the picture itself. Anew for each
        picture: its result does not depend on earlier ones.

        Raises:
            As `plan`, and as the runner.
        """
        plan = self.plan_afresh(rows.height, rows.width)
        if self.frozen is not None or not self._wants_probe or plan.count == 1:
            return plan
        rows.hold(0, plan.window_height)
        found = probe_halo(
            lambda window: self._inference.start([window])[0].read(),
            rows.held,
            self._seam_budget_db,
            scale=self._spec.scale,
            multiple=self._spec.input_multiple,
            window=(plan.window_height, plan.window_width) if self._spec.profiles else None,
        )
        if found is not None:
            self._use_halo(self._limit_to_radius(found.width))
        return self.plan(rows.height, rows.width)

    def choose_batch(self, plan: TilePlan, rows: InputRows, count: int) -> int:
        """Batch size for `count` windows, cut as planned of images like this one."""
        if self.frozen is not None:
            return min(self.frozen.batch, count)
        return self._inference.choose_batch(_window_of(plan, rows), count, count)

    def freeze(self, rows: InputRows, cut: Cut | None) -> Cut:
        """Cut all images from now on as this one, or as an earlier call said."""
        if cut is None:
            self.plan_for(rows)
            cut = Cut(self._choose_tile(), self._inference.halo)
            self._use_cut(cut)
            plan = self.plan(rows.height, rows.width)
            max_count = None if plan.count == 1 else plan.count
            cut = replace(cut, batch=self._inference.choose_batch(_window_of(plan, rows), max_count, _MANY))
        self._use_cut(cut)
        return cut

    def _use_cut(self, cut: Cut) -> None:
        self._use_halo(cut.halo)
        self.frozen = cut

    def _use_halo(self, halo: int) -> None:
        self._inference.halo = halo
        self._inference.blend = 0 if self._sees_all(halo) else blend_of(halo)

    def _limit_to_radius(self, max_count: int) -> int:
        return max_count if self.receptive_radius is None else min(self.receptive_radius, max_count)

    def _sees_all(self, halo: int) -> bool:
        return self.receptive_radius is not None and self.receptive_radius <= halo

    def _choose_tile(self) -> int:
        if self.frozen is not None:
            return self.frozen.tile
        if self._bytes_per_pixel is None and self._model is not None:
            self._bytes_per_pixel = estimate_bytes_per_pixel(self._model) or 0.0
        batch_bytes = None if self._bytes_per_pixel is None else self._bytes_per_pixel * (self._batch or 1)
        return choose_tile(self._inference.halo, batch_bytes, free_memory(self._spec.device))


def _window_of(plan: TilePlan, rows: InputRows) -> Pixels:
    """Samples of a window's shape and type, with nothing in them."""
    return cast("Pixels", np.empty((plan.window_height, plan.window_width, rows.channels), rows.held.dtype))
