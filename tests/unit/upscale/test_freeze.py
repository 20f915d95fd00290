"""Pictures that belong together are cut alike, whatever the free memory and the pictures are."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sr_deploy.runners.base import BaseRunner
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.plan import Cut


class BlurRunner(BaseRunner):
    """Averages over 21 pixels along rows: edges of windows show."""

    def __init__(self) -> None:
        super().__init__(RunnerSpec("torch", "0", "fp32", "cpu", 1, 3))

    def _infer(self, lr_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        padded = np.pad(lr_NCHW, ((0, 0), (0, 0), (0, 0), (10, 10)), mode="edge")
        return np.mean([padded[..., start : start + lr_NCHW.shape[3]] for start in range(21)], axis=0, dtype=np.float32)

    def _release(self) -> None:
        pass


@pytest.fixture
def noise() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (64, 600, 3), np.uint8)


def test_the_first_picture_decides_for_all(noise: NDArray[np.uint8]) -> None:
    flat = np.full_like(noise, 128)
    with Upscaler(BlurRunner(), tile=64) as upscaler:
        cut = upscaler.freeze(noise)
        assert cut.halo > 10  # more than the network sees, or seams would show
        plan = upscaler.plan(64, 600)
        upscaler(flat)
        assert upscaler.plan(64, 600) == plan
    with Upscaler(BlurRunner(), tile=64) as upscaler:
        upscaler(flat)
        assert upscaler.halo < cut.halo  # what a flat picture alone would ask for
        assert upscaler.freeze(flat, cut) == cut
        assert upscaler.plan(64, 600) == plan
        assert upscaler(noise).shape == noise.shape


def test_a_cut_says_the_tile_too() -> None:
    with Upscaler(BlurRunner()) as upscaler:
        upscaler.freeze(np.zeros((8, 8, 3), np.uint8), Cut(tile=96, halo=16))
        plan = upscaler.plan(900, 900)
    assert (plan.halo, plan.window_width, plan.count) == (16, 119, 100)
