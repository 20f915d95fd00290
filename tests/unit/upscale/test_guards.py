from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sr_deploy.imaging.codec import bundled_photographs, read_image
from sr_deploy.runners import open_runner
from sr_deploy.upscale.guards import (
    CELL,
    DEFAULT_LIMITS,
    FINITE_ONLY,
    GuardLimits,
    cell_weights,
    find_problem,
    measure_statistics,
)
from sr_deploy.upscale.pixels import to_window


def enlarge(lr: NDArray[np.float32]) -> NDArray[np.float32]:
    return lr.repeat(2, axis=2).repeat(2, axis=3)


@pytest.fixture(scope="module")
def lr() -> NDArray[np.float32]:
    return to_window(read_image(bundled_photographs()["coffee"])[100:170, 200:265], 3)


def judge(lr: NDArray[np.float32], sr: NDArray[np.float32], limits: GuardLimits = DEFAULT_LIMITS) -> str | None:
    return find_problem(lr, measure_statistics(lr), measure_statistics(sr, 2), limits)


def test_an_enlarged_picture_is_let_through(lr: NDArray[np.float32]) -> None:
    assert judge(lr, enlarge(lr)) is None
    assert judge(lr, enlarge(lr) * 1.5 - 0.25) is None  # as sharpening overshoots


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_found(lr: NDArray[np.float32], value: float) -> None:
    sr = enlarge(lr)
    sr[0, 1, -1, -1] = value
    assert judge(lr, sr) == "values that are not finite"


def test_what_is_far_out_of_range_is_found(lr: NDArray[np.float32]) -> None:
    sr = enlarge(lr)
    sr[0, 2, 3, 4] = 9.5
    assert judge(lr, sr) == f"values from {float(sr.min()):.3g} to 9.5 (-8 to 9 is let through)"
    assert judge(lr, sr, GuardLimits(overshoot=10)) is None


def test_a_black_square_is_found(lr: NDArray[np.float32]) -> None:
    """A part that was lost shows even where the mean of the whole hardly moves."""
    sr = enlarge(lr)
    sr[:, :, -2 * CELL :, -2 * CELL :] = 1 - (lr[:, :, -CELL:, -CELL:].mean() > 0.5)
    assert "away from the input's (up to 0.35" in str(judge(lr, sr))


def test_one_color_is_found_unless_the_input_is_one() -> None:
    dark = np.random.default_rng(0).random((1, 3, 32, 32), np.float32) * np.float32(0.2)
    black = np.zeros((1, 3, 64, 64), np.float32)
    assert judge(dark, black) == "one flat color for an input that is none"
    assert judge(dark * 0, black) is None
    assert judge(dark / 10, black) is None  # noise may be smoothed away
    colored = np.broadcast_to(np.float32([0.1, 0.2, 0.05])[:, None, None], (1, 3, 64, 64))
    assert judge(dark, colored) == "one flat color for an input that is none"


@pytest.mark.parametrize(("length", "cells"), [(1, 1), (15, 1), (31, 1), (32, 2), (47, 2), (100, 6)])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_cells_average_everything_once(length: int, cells: int, scale: int) -> None:
    weights = cell_weights(length * scale, scale)
    assert weights.shape == (cells, length * scale)
    assert np.allclose(weights.sum(axis=1), 1)
    assert ((weights > 0).sum(axis=0) == 1).all()
    assert np.array_equal(weights[:, ::scale] > 0, cell_weights(length, 1) > 0)  # the same places at every scale


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 40), (48, 33), (67, 100)])
@pytest.mark.parametrize("scale", [1, 3])
def test_means_are_those_of_the_cells(height: int, width: int, scale: int) -> None:
    image_NCHW = np.random.default_rng(0).random((1, 3, height * scale, width * scale), np.float32)
    rows, columns = cell_weights(height * scale, scale), cell_weights(width * scale, scale)
    assert measure_statistics(image_NCHW, scale).means == pytest.approx(rows @ image_NCHW[0] @ columns.T, abs=1e-6)


def hard_pictures() -> dict[str, NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    size = (96, 96, 3)
    text = np.full(size, 255, np.uint8)
    for row in range(4, 90, 9):  # strokes of one pixel, as small letters have them
        text[row : row + 6, rng.integers(2, 94, 40)] = 0
        text[row + rng.integers(0, 6), 4:90:2] = 0
    checks = np.indices(size[:2]).sum(axis=0) % 2 * 255
    stars = np.zeros(size, np.uint8)
    stars[::30, ::30] = 255
    return {
        "noise": rng.integers(0, 256, size, np.uint8),
        "black and white noise": rng.integers(0, 2, size, np.uint8) * 255,
        "faint noise": (128 + rng.normal(0, 2, size)).astype(np.uint8),
        "flat": np.full(size, 77, np.uint8),
        "black": np.zeros(size, np.uint8),
        "white": np.full(size, 255, np.uint8),
        "text": text,
        "checks": np.repeat(checks[..., None].astype(np.uint8), 3, axis=2),
        "stars": stars,
        "primaries": np.repeat(np.eye(3, dtype=np.uint8)[None] * 255, 32, axis=0).repeat(32, axis=1)[:96],
        **{name: read_image(path)[40:136, 40:136] for name, path in list(bundled_photographs().items())[:4]},
    }


def test_a_sound_network_is_never_stopped() -> None:
    folder = os.environ.get("SR_DEPLOY_DATA")
    if not folder:
        pytest.skip("SR_DEPLOY_DATA is not set: no published checkpoint to try")
    checkpoint = Path(folder) / "checkpoints" / "realesr-animevideov3.pth"
    with open_runner(checkpoint, "torch:fp32") as runner:
        for name, picture in hard_pictures().items():
            lr_NCHW = to_window(picture, 3)
            sr_NCHW = runner.infer(lr_NCHW)
            problem = find_problem(
                lr_NCHW,
                measure_statistics(lr_NCHW),
                measure_statistics(sr_NCHW, 4),
                GuardLimits(overshoot=4, drift=0.2),
            )  # half of the limits: there is room
            assert problem is None, name


def test_finite_only_stops_nothing_else(lr: NDArray[np.float32]) -> None:
    assert judge(lr, enlarge(lr) * 0 - 100, FINITE_ONLY) is None
    assert judge(lr, enlarge(lr) * np.float32("nan"), FINITE_ONLY) == "values that are not finite"
