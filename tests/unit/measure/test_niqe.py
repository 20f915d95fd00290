import os
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from sr_deploy.errors import ShapeError
from sr_deploy.imaging.codec import bundled_photographs, read_training_image
from sr_deploy.measure.niqe import fit_generalized_gaussian, halve_plane, niqe

BABOON = Path(os.environ.get("SR_DEPLOY_DATA", ".")) / "valid" / "set14" / "img_001_SRF_4_HR.png"


@pytest.fixture(scope="module")
def photograph():
    return read_training_image(bundled_photographs()["coffee"])


@pytest.mark.skipif(not BABOON.is_file(), reason="SR_DEPLOY_DATA names no folder with valid/set14")
def test_baboon_scores_what_the_reference_says():
    # BasicSR computes in single precision: 5.7296 becomes 5.7297 in double.
    assert niqe(read_training_image(BABOON)) == pytest.approx(5.7296, abs=2e-4)


@pytest.mark.parametrize("name", ["coffee", "chelsea"])
def test_blur_and_noise_are_worse_than_the_photograph(name):
    photograph = read_training_image(bundled_photographs()[name])
    plain = niqe(photograph)
    assert 2 < plain < 7
    blurred = np.rint(gaussian_filter(photograph.astype(float), (3, 3, 0))).astype(np.uint8)
    noise = np.random.default_rng(0).normal(0, 30, photograph.shape)
    noisy = np.clip(photograph + noise, 0, 255).astype(np.uint8)
    assert niqe(blurred) > plain + 1
    assert niqe(noisy) > plain + 1


def test_a_border_is_left_out_and_so_is_what_fills_no_block(photograph):
    part = photograph[:300, :310].copy()
    score = niqe(part)
    framed = np.pad(part, ((7, 7), (7, 7), (0, 0)))
    assert niqe(framed, crop_border=7) == score
    # 300 x 310 holds 3 x 3 blocks: 288 x 288.
    assert niqe(part[:288, :288]) == score
    assert niqe(part[:288, :192]) != score


def test_gray_pictures_score_as_rgb_with_equal_channels(photograph):
    gray = photograph[..., 1:2]
    assert niqe(gray) == pytest.approx(niqe(gray.repeat(3, axis=2)), abs=1e-6)


@pytest.mark.parametrize(("left", "right"), [(1.0, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize("shape", [1.0, 2.0, 4.0])
def test_fit_finds_the_distribution_that_values_were_drawn_from(shape, left, right):
    rng = np.random.default_rng(1)
    count = 400_000
    # |x / beta|^shape is gamma distributed with parameter 1 / shape; sides are drawn in the ratio of their scales.
    magnitudes = rng.gamma(1 / shape, size=count) ** (1 / shape)
    negative = rng.random(count) < left / (left + right)
    values = np.where(negative, -left * magnitudes, right * magnitudes)
    fit = fit_generalized_gaussian(values[None])
    assert fit.shape[0] == pytest.approx(shape, rel=0.03)
    assert fit.left[0] == pytest.approx(left, rel=0.03)
    assert fit.right[0] == pytest.approx(right, rel=0.03)
    assert fit.mean[0] == pytest.approx(values.mean(), abs=0.02)


def test_scale_of_a_normal_distribution_is_its_deviation_times_root_2():
    values = np.random.default_rng(2).normal(0, 3, (1, 400_000))
    fit = fit_generalized_gaussian(values)
    assert fit.left[0] / np.sqrt(2) == pytest.approx(3, rel=0.02)
    assert fit.right[0] / np.sqrt(2) == pytest.approx(3, rel=0.02)


def test_halving_is_the_antialiased_cubic():
    plane = np.zeros((16, 16))
    plane[8, 8] = 256 * 256
    result = halve_plane(plane)
    assert result.shape == (8, 8)
    # Input 8 lies 1.75, 0.75, 0.25 and 1.25 widths of the stretched cubic from the middles of outputs 2 to 5.
    np.testing.assert_allclose(result[4, 2:6] / 111, [-3, 29, 111, -9])
    # A ramp stays a ramp, half as steep, sampled between the pixels.
    ramp = np.arange(40.0)[None].repeat(40, axis=0)
    np.testing.assert_allclose(halve_plane(ramp)[10, 4:16], 2 * np.arange(4, 16) + 0.5)
    np.testing.assert_allclose(halve_plane(np.full((7, 9), 5.0)), np.full((3, 4), 5.0))


def test_what_cannot_be_scored_is_refused(photograph):
    with pytest.raises(ShapeError, match=r"100x180 picture .*NIQE.* at least 104x200 or 200x104"):
        niqe(photograph[:100, :180], crop_border=4)
    with pytest.raises(ShapeError, match="with texture, and of 4 blocks only 0 are not flat"):
        niqe(np.full((192, 192, 3), 128, np.uint8))
    with pytest.raises(ShapeError, match="not 200 x 200 of uint8"):
        niqe(photograph[:200, :200, 0])
    with pytest.raises(ShapeError, match="of float64"):
        niqe(photograph / 255)
