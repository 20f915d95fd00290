"""How images are cut for a network: functions of their size, of the network, and of the memory there is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from sr_deploy.model import Model
from sr_deploy.runners.cost import find_cost
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.upscale.memory import choose_tile, estimate_bytes_per_pixel
from sr_deploy.upscale.plan import Cut, Halo, TilePlan
from sr_deploy.upscale.probe import blend_of
from sr_deploy.upscale.tiles import MAX_HALO, plan_tiles

SEAM_BUDGET_DB = 60.0
"""Errors a quarter of a step of 8 bit: nothing that a file could show."""


@dataclass(frozen=True)
class PlanSettings:
    """What decides on the tiles of every image: the network, and what the caller asks for."""

    spec: RunnerSpec
    """Of the runner."""
    receptive_radius: int | None = None
    """How far the network looks around a pixel; None: unknown."""
    bytes_per_pixel: float | None = None
    """Memory that it takes for each pixel of a window; None: unknown, or nothing depends on it."""
    tile: int | None = None
    """As `Upscaler` has it."""
    asked_halo: int | None = None
    """As `Upscaler` has its halo."""
    batch: int | None = None
    """As `Upscaler` has it."""
    frozen: Cut | None = None
    """What holds for all images; None: each has its own."""

    @classmethod
    def of(cls, model: Model | None, spec: RunnerSpec, tile: int | None, halo: int | None, batch: int | None) -> Self:
        """Ask a model; None: only its runner is known."""
        cost = None if model is None else find_cost(model)
        needed = estimate_bytes_per_pixel(model) if model is not None and tile is None else None
        return cls(spec, None if cost is None else cost.receptive_radius, needed, tile, halo, batch)

    @property
    def halo(self) -> Halo:
        """What is asked for, or as far as the network sees, up to `MAX_HALO`."""
        return self.limit_halo(MAX_HALO) if self.asked_halo is None else self._blend(self.asked_halo)

    @property
    def wants_probe(self) -> bool:
        """Whether the halo is to be chosen on each image: the network sees further than is paid for."""
        return self.asked_halo is None and not self._sees_all(MAX_HALO)

    def limit_halo(self, width: int) -> Halo:
        """A halo that is no wider than the network sees."""
        return self._blend(width if self.receptive_radius is None else min(self.receptive_radius, width))

    def find_default_tile(self, halo: Halo, free: int | None) -> int:
        """Core of a tile where none is asked for; `free`: bytes of memory, None: unknown."""
        if self.frozen is not None:
            return self.frozen.tile
        batch_bytes = None if self.bytes_per_pixel is None else self.bytes_per_pixel * (self.batch or 1)
        return choose_tile(halo.width, batch_bytes, free)

    def freeze(self, cut: Cut) -> Self:
        """The same for all images from now on."""
        return replace(self, asked_halo=cut.halo, batch=cut.batch, frozen=cut)

    def _blend(self, width: int) -> Halo:
        return Halo(width, 0 if self._sees_all(width) else blend_of(width))

    def _sees_all(self, width: int) -> bool:
        return self.receptive_radius is not None and self.receptive_radius <= width


def plan_image(
    height: int, width: int, settings: PlanSettings, halo: Halo, *, free: int | None, tile_limit: int | None
) -> TilePlan:
    """How an image is cut.

    Args:
        height: of the image.
        width: of the image.
        settings: what decides on all images.
        halo: `settings.halo`, or what was chosen on the image.
        free: bytes of memory that the network can take; None: unknown.
        tile_limit: core of the largest tile that is tried; None: any.

    Raises:
        ShapeError: an empty image, or no profile of the engine takes it.
    """
    tile = settings.tile
    if tile_limit is not None:
        tile = min(tile or tile_limit, tile_limit)
    return plan_tiles(
        height,
        width,
        tile=tile,
        halo=halo.width,
        blend=halo.blend,
        multiple=settings.spec.input_multiple,
        profiles=settings.spec.profiles,
        default_tile=settings.find_default_tile(halo, free),
    )
