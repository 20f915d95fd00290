import numpy as np
import pytest

from sr_deploy.evaluation.scores import draw_worst_crops, evaluate_pair
from sr_deploy.imaging.codec import bundled_photographs, read_training_image
from sr_deploy.imaging.photographs import ImagePair
from sr_deploy.imaging.resize import downscale_bicubic, upscale_bicubic
from sr_deploy.measure.niqe import niqe
from sr_deploy.measure.quality import ImageScores, average_scores, score_pair


@pytest.fixture(scope="module")
def pair():
    hr = read_training_image(bundled_photographs()["coffee"])[:240, :320]
    return ImagePair(downscale_bicubic(hr, 2), hr)


def nearest(lr):
    return lr.repeat(2, axis=0).repeat(2, axis=1)


def test_figures_are_those_of_the_measures(pair):
    result, _ = evaluate_pair("coffee", pair, nearest, 2, lpips=lambda a, b: float(np.abs(a - 1.0 * b).mean()))
    expected = score_pair(nearest(pair.lr), pair.hr, 2)
    assert (result.name, result.width, result.height) == ("coffee", 320, 240)
    assert (result.model.psnr_y, result.model.ssim_rgb) == (expected.psnr_y, expected.ssim_rgb)
    assert result.bicubic.psnr_y == score_pair(upscale_bicubic(pair.lr, 2), pair.hr, 2).psnr_y
    assert result.bicubic.psnr_y > result.model.psnr_y
    assert result.model.niqe == niqe(nearest(pair.lr), 2)
    assert result.original_niqe == niqe(pair.hr, 2)
    inner = slice(2, -2)
    assert result.model.lpips == np.abs(nearest(pair.lr)[inner, inner] - 1.0 * pair.hr[inner, inner]).mean()


def test_what_was_not_asked_for_or_cannot_be_measured_is_none(pair):
    result, _ = evaluate_pair("coffee", pair, nearest, 2, with_niqe=False)
    assert result.model.niqe is result.bicubic.niqe is result.original_niqe is result.model.lpips is None
    small = ImagePair(pair.lr[:40, :40], pair.hr[:80, :80])
    assert evaluate_pair("small", small, nearest, 2)[0].model.niqe is None


def test_equal_pictures_have_100_db(pair):
    result, crop = evaluate_pair("coffee", pair, lambda _: pair.hr, 2, with_niqe=False)
    assert result.model.psnr_y == result.model.psnr_rgb == crop.psnr_db == 100
    assert result.model.ssim_y == 1


def test_means_leave_out_what_is_not_there():
    first = ImageScores(psnr_y=20, ssim_y=0.5, psnr_rgb=18, ssim_rgb=0.25, niqe=4)
    second = ImageScores(psnr_y=30, ssim_y=1, psnr_rgb=20, ssim_rgb=0.75, niqe=None)
    assert average_scores([first, second]) == ImageScores(
        psnr_y=25, ssim_y=0.75, psnr_rgb=19, ssim_rgb=0.5, niqe=4, lpips=None
    )


def test_crops_show_where_the_network_is_worst(pair):
    sr = pair.hr.copy()
    sr[100:110, 200:210] = 255 - sr[100:110, 200:210]
    _, crop = evaluate_pair("coffee", pair, lambda _: sr, 2, with_niqe=False)
    low, bicubic, network, original = (cell.image for cell in crop.cells)
    # On a grid of half windows of 176 pixels: rows 0 to 176, columns 88 to 264.
    window = slice(0, 176), slice(88, 264)
    assert np.array_equal(low, nearest(pair.lr)[window])
    assert np.array_equal(bicubic, upscale_bicubic(pair.lr, 2)[window])
    assert np.array_equal(network, sr[window])
    assert np.array_equal(original, pair.hr[window])
    error = np.square(sr[window].astype(float) - pair.hr[window]).mean()
    assert crop.psnr_db == pytest.approx(10 * np.log10(255**2 / error))
    assert crop.cells[0].caption == "coffee\nfrom column 88, row 0"
    assert crop.cells[2].caption == f"network, {crop.psnr_db:.2f} dB here"


def test_the_picture_has_the_worst_six_first(pair):
    crops = []
    for level in (10, 70, 30, 50, 20, 40, 60):
        sr = np.clip(pair.hr.astype(int) + level, 0, 255).astype(np.uint8)
        crops.append(evaluate_pair("coffee", pair, lambda _, sr=sr: sr, 2, with_niqe=False)[1])
    picture = draw_worst_crops(crops)
    worst = crops[1].cells
    assert np.array_equal(picture[:176, 2 * 184 : 2 * 184 + 176], worst[2].image)
    heights = picture.shape[0] - 5 * 8
    assert heights % 6 == 0
    assert 176 + 20 < heights / 6 < 176 + 60
