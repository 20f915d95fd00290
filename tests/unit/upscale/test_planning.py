"""Plans of images from numbers alone: no network, no runner."""

from __future__ import annotations

import pytest

from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.upscale.plan import Cut, Halo
from sr_deploy.upscale.planning import PlanSettings, plan_image

SPEC = RunnerSpec("torch", "0", "fp32", "cpu", 2, 3)


@pytest.mark.parametrize(
    ("radius", "asked", "halo", "wants_probe"),
    [
        (18, None, Halo(18, 0), False),
        (40, None, Halo(40, 0), False),
        (41, None, Halo(40, 10), True),
        (None, None, Halo(40, 10), True),
        (41, 8, Halo(8, 2), False),
        (18, 64, Halo(64, 0), False),
    ],
)
def test_halos(radius: int | None, asked: int | None, halo: Halo, wants_probe: bool) -> None:
    settings = PlanSettings(SPEC, receptive_radius=radius, asked_halo=asked)
    assert (settings.halo, settings.wants_probe) == (halo, wants_probe)
    assert settings.limit_halo(24) == (Halo(18, 0) if radius == 18 else Halo(24, 6))


@pytest.mark.parametrize(
    ("tile", "free", "tile_limit", "window", "count"),
    [
        (None, None, None, 358, 9),  # 384 at most, evened out: 322 and two halos of 18
        (None, 2**40, None, 358, 9),
        (None, 2 * 1000 * 164**2, None, 157, 64),  # in half of the memory 128 and halos fit; evened out
        (None, 2**40, 64, 100, 256),
        (64, 2**40, None, 100, 256),
        (64, 2**40, 32, 68, 961),
        (0, None, None, 1000, 1),
        (0, None, 64, 100, 256),
    ],
)
def test_tiles(tile: int | None, free: int | None, tile_limit: int | None, window: int, count: int) -> None:
    settings = PlanSettings(SPEC, receptive_radius=18, bytes_per_pixel=1000, tile=tile)
    plan = plan_image(1000, 1000, settings, settings.halo, free=free, tile_limit=tile_limit)
    assert (plan.window_height, plan.window_width, plan.count) == (window, window, count)


def test_what_is_frozen_holds_whatever_the_memory() -> None:
    settings = PlanSettings(SPEC, bytes_per_pixel=1000).freeze(Cut(tile=96, halo=16, batch=3))
    assert (settings.halo, settings.batch, settings.wants_probe) == (Halo(16, 4), 3, False)
    plans = [plan_image(900, 900, settings, settings.halo, free=free, tile_limit=None) for free in (None, 0, 2**40)]
    assert [(plan.halo, plan.window_width, plan.count) for plan in plans] == [(16, 119, 100)] * 3
