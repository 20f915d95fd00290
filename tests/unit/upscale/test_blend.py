from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sr_deploy.upscale.blend import Blender, ramp
from sr_deploy.upscale.plan import TilePlan
from sr_deploy.upscale.tiles import plan_tiles


def place_all(
    plan: TilePlan, scale: int, picture: NDArray[np.float32], errors: float
) -> tuple[NDArray[np.float32], float | None]:
    """Give each tile its part of a picture, brighter or darker by `errors` in a chessboard of tiles."""
    blender = Blender(plan, scale)
    result = np.full_like(picture, np.nan)
    for tile in plan.tiles():
        rows = slice(tile.row.used_from * scale, tile.row.used_to * scale)
        columns = slice(tile.column.used_from * scale, tile.column.used_to * scale)
        sign = 1 if (tile.row.index + tile.column.index) % 2 else -1
        top, left, sr = blender.add(tile, picture[:, :, rows, columns] + np.float32(sign * errors))
        place = np.s_[:, :, top : top + sr.shape[2], left : left + sr.shape[3]]
        assert np.isnan(result[place]).all()  # once
        result[place] = sr
    assert not np.isnan(result).any()
    return result, blender.seam_db


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 120),
    width=st.integers(1, 120),
    tile=st.integers(1, 40),
    halo=st.integers(0, 20),
    blend=st.integers(0, 20),
    multiple=st.sampled_from([1, 2, 4]),
)
def test_what_agrees_is_left_as_it_is(
    *, height: int, width: int, tile: int, halo: int, blend: int, multiple: int
) -> None:
    plan = plan_tiles(height, width, tile=tile, halo=halo, blend=blend, multiple=multiple)
    picture = np.random.default_rng(height).random((1, 2, 2 * height, 2 * width), np.float32)
    result, seam_db = place_all(plan, 2, picture, 0.0)
    assert np.array_equal(result, picture)
    assert seam_db == (math.inf if plan.blend else None)
    assert plan.blend <= min(blend, plan.halo)
    for tile_ in plan.tiles():
        for place, window, padded in (
            (tile_.row, plan.window_height, plan.padded_height),
            (tile_.column, plan.window_width, plan.padded_width),
        ):
            assert place.start <= place.used_from < place.used_to <= place.start + window <= padded


def test_a_step_becomes_a_slope() -> None:
    """Neighbors apart by 0.2: hard tiles jump by that, blended ones climb by at most pi / 2 of a straight line."""
    picture = np.full((1, 1, 30, 200), 0.5, np.float32)
    hard, none = place_all(plan_tiles(30, 200, tile=80, halo=20), 1, picture, 0.1)
    soft, seam_db = place_all(plan_tiles(30, 200, tile=80, halo=20, blend=10), 1, picture, 0.1)
    assert none is None
    assert np.isclose(np.abs(np.diff(hard, axis=3)).max(), 0.2)
    assert np.abs(np.diff(soft, axis=3)).max() < 0.2 * np.pi / 2 / 20 * 1.01
    # w^2 + (1 - w)^2 is 3/4 on average over a half cosine wave: 3/8 of 0.2 squared.
    expected = -10 * np.log10(3 / 8 * 0.2**2)
    assert seam_db is not None
    assert np.isclose(seam_db, expected, atol=0.02)


def test_ramp_weights_of_both_sides_sum_to_one() -> None:
    weights = ramp(12)
    assert np.allclose(weights + weights[::-1], 1)
    assert (np.diff(weights) > 0).all()
    assert 0 < weights[0] < 0.01
