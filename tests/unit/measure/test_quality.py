from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from sr_deploy.errors import ShapeError
from sr_deploy.imaging.codec import bundled_photographs, read_image
from sr_deploy.measure.quality import EQUAL_DB, luma, psnr, score_pair


@pytest.fixture(scope="module")
def hr() -> NDArray[np.uint8]:
    return read_image(bundled_photographs()["chelsea"])[40:160, 100:241]


@pytest.fixture(scope="module")
def noisy(hr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    noise = np.random.default_rng(1).normal(0, 12, hr.shape)
    return np.clip(hr + noise, 0, 255).astype(np.uint8)


def reference_ssim(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    _, similarity = structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, full=True
    )
    return float(similarity[5:-5, 5:-5].mean())


def test_luma_of_known_colors() -> None:
    colors = np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert luma(colors)[0].tolist() == pytest.approx([235, 16, 81.481, 144.553, 40.966])
    assert luma(colors[..., :1])[0, :2].tolist() == pytest.approx([235, 16])


def test_psnr_worked_by_hand(hr: NDArray[np.uint8]) -> None:
    low = hr // 2
    scores = score_pair(low + 3, low, 4)  # every sample off by 3; luma by 3 * 219 / 255
    assert scores.psnr_rgb == pytest.approx(20 * math.log10(255 / 3))
    assert scores.psnr_y == pytest.approx(20 * math.log10(255 / (3 * 219 / 255)))


def test_borders_do_not_count(hr: NDArray[np.uint8]) -> None:
    spoiled = hr.copy()
    spoiled[:4] = spoiled[-4:] = 0
    spoiled[:, :4] = spoiled[:, -4:] = 0
    assert score_pair(spoiled, hr, 4) == score_pair(hr, hr, 4)
    assert score_pair(spoiled, hr, 3).psnr_rgb < 40


def test_equal_pictures(hr: NDArray[np.uint8]) -> None:
    scores = score_pair(hr, hr, 2)
    assert scores.psnr_y == scores.psnr_rgb == EQUAL_DB
    assert scores.ssim_y == pytest.approx(1, abs=1e-12)
    assert scores.ssim_rgb == pytest.approx(1, abs=1e-12)


def test_ssim_equals_scikit_images(hr: NDArray[np.uint8], noisy: NDArray[np.uint8]) -> None:
    scores = score_pair(noisy, hr, 4)
    a, b = (image[4:-4, 4:-4].astype(np.float64) for image in (noisy, hr))
    assert 0.3 < scores.ssim_y < 0.9
    assert scores.ssim_y == pytest.approx(reference_ssim(luma(a), luma(b)), abs=1e-6)
    expected = np.mean([reference_ssim(a[..., channel], b[..., channel]) for channel in range(3)])
    assert scores.ssim_rgb == pytest.approx(expected, abs=1e-6)


def test_scale_1_still_crops_and_0_does_not(hr: NDArray[np.uint8]) -> None:
    spoiled = hr.copy()
    spoiled[0] = 255 - spoiled[0]
    assert score_pair(spoiled, hr, 1).psnr_rgb == EQUAL_DB
    assert score_pair(spoiled, hr, 0).psnr_rgb < 40


def test_gray_counts_as_equal_channels(hr: NDArray[np.uint8], noisy: NDArray[np.uint8]) -> None:
    gray = score_pair(noisy[..., :1], hr[..., :1], 4)
    as_rgb = score_pair(np.repeat(noisy[..., :1], 3, axis=2), np.repeat(hr[..., :1], 3, axis=2), 4)
    for field in ("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb"):
        assert getattr(gray, field) == pytest.approx(getattr(as_rgb, field), abs=1e-9)


def test_refuses_what_cannot_be_compared(hr: NDArray[np.uint8]) -> None:
    with pytest.raises(ShapeError, match="cannot compare 119 x 141 x 3 with 120 x 141 x 3"):
        score_pair(hr[1:], hr, 4)
    with pytest.raises(ShapeError, match="C = 1 or 3"):
        score_pair(hr[..., :2], hr[..., :2], 4)
    assert score_pair(hr[:19, :19], hr[:19, :19], 4).ssim_y == pytest.approx(1)
    with pytest.raises(ShapeError, match=r"a 18x40 picture .* at x4: sides of at least 19"):
        score_pair(hr[:18, :40], hr[:18, :40], 4)


def test_psnr_of_mean_squared_errors():
    assert psnr(0.0) == float("inf")
    assert psnr(1e-4) == pytest.approx(40.0, abs=1e-12)
    assert psnr(255**2 / 1000, 255) == pytest.approx(30.0, abs=1e-12)
    assert psnr(1.0) == 0.0


def test_the_weights_of_luma_are_those_of_the_papers():
    """Y of MATLAB's rgb2ycbcr: 16 + 65.481 R + 128.553 G + 24.966 B, of 0 to 1."""
    colors = np.eye(3).reshape(1, 3, 3) * 255
    assert luma(colors)[0] == pytest.approx([16 + 65.481, 16 + 128.553, 16 + 24.966], abs=1e-12)
