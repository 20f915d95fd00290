"""The probe on a network whose errors are known: beyond a window's edge it sees black."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sr_deploy.imaging.opening import Pixels
from sr_deploy.upscale.probe import MAX_PROBED_HALO, STEP, expect_seam_db, measure_edge_errors, probe_halo

DECAY = 0.8
HEIGHT, WIDTH = 200, 700


class EdgeError:
    """Gives the picture, too bright by `DECAY ** distance` near the left and right edges of the window."""

    def __init__(self) -> None:
        self.windows: list[tuple[int, int]] = []

    def __call__(self, samples: Pixels) -> NDArray[np.float32]:
        self.windows.append(samples.shape[:2])
        width = samples.shape[1]
        left = np.arange(width)
        error = DECAY**left + DECAY ** left[::-1]
        planes = samples.transpose(2, 0, 1)[None] / 255 * 0.25 + 0.25 * error
        return planes.repeat(2, axis=2).repeat(2, axis=3).astype(np.float32)


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def test_errors_by_distance(picture: NDArray[np.uint8]) -> None:
    network = EdgeError()
    errors = measure_edge_errors(network, picture, scale=2)
    assert network.windows == [(48, 384)] * 2
    assert len(errors) == 96
    known = (0.25 * DECAY ** np.arange(60)) ** 2
    assert np.allclose(errors[:60], known, rtol=0.02)


def test_the_narrowest_halo_that_keeps_to_the_budget(picture: NDArray[np.uint8]) -> None:
    errors = measure_edge_errors(EdgeError(), picture, scale=2)
    for budget in (20.0, 40.0, 60.0, 90.0):
        found = probe_halo(EdgeError(), picture, budget, scale=2)
        assert found is not None
        assert expect_seam_db(errors, found) >= budget
        if found > STEP:
            assert expect_seam_db(errors, found - STEP) < budget
    assert probe_halo(EdgeError(), picture, 500.0, scale=2) == MAX_PROBED_HALO


def test_the_expected_psnr_worked_by_hand() -> None:
    """A constant error e at every distance: both weights' squares average 3/8, so the square is 3/4 of e squared."""
    expected = expect_seam_db(np.full(80, 1e-4), 32)
    assert np.isclose(expected, 40 - 10 * np.log10(0.75), atol=0.01)


def test_small_pictures_and_fixed_windows(picture: NDArray[np.uint8]) -> None:
    assert probe_halo(EdgeError(), picture[:, :15], 60.0, scale=2) is None
    network = EdgeError()
    assert probe_halo(network, picture, 40.0, scale=2, window=(64, 128), multiple=4) is not None
    assert network.windows == [(64, 128)] * 2
    assert probe_halo(network, picture[:50], 40.0, scale=2, window=(64, 128)) is None
