from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sr_deploy.errors import TrainingError
from sr_deploy.imaging.codec import read_image
from sr_deploy.imaging.resize import upscale_bicubic
from sr_deploy.imaging.sheet import draw_caption
from sr_deploy.measure.quality import score_pair
from sr_deploy.train.validation import read_held_out, validate, write_preview


class Nearest(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(1))

    def forward(self, lr_NCHW: torch.Tensor) -> torch.Tensor:
        return F.interpolate(lr_NCHW, scale_factor=2.0, mode="nearest") + self.offset


def test_scores_are_those_of_the_papers_protocol(make_recipe):
    held_out = read_held_out(make_recipe())
    assert [photograph.name for photograph in held_out] == ["a", "c", "b"]
    result = validate(Nearest(), held_out, 2, step=5)
    pair = held_out[1].pair
    assert pair.hr.shape == (40, 42, 3)
    nearest = pair.lr.repeat(2, axis=0).repeat(2, axis=1)
    expected, bicubic = score_pair(nearest, pair.hr, 2), score_pair(upscale_bicubic(pair.lr, 2), pair.hr, 2)
    row = result.photographs[1]
    assert (row.model.psnr_y, row.model.ssim_rgb) == pytest.approx((expected.psnr_y, expected.ssim_rgb))
    assert (row.bicubic.psnr_rgb, row.bicubic.ssim_y) == pytest.approx((bicubic.psnr_rgb, bicubic.ssim_y))
    assert result.model.psnr_y == pytest.approx(np.mean([row.model.psnr_y for row in result.photographs]))
    assert result.step == 5


def test_equal_pictures_score_a_finite_hundred(make_recipe, picture_folder):
    from sr_deploy.imaging.codec import write_image

    for path in picture_folder.rglob("*.png"):
        path.unlink()
    write_image(picture_folder / "flat.png", np.full((40, 40, 3), 90, np.uint8))
    result = validate(Nearest(), read_held_out(make_recipe()), 2, step=0)
    assert (result.model.psnr_y, result.bicubic.psnr_rgb) == (100.0, 100.0)
    assert "Infinity" not in result.model_dump_json()


def test_values_that_are_no_numbers_are_an_error_and_no_black_picture(make_recipe):
    network = Nearest()
    torch.nn.init.constant_(network.offset, float("nan"))
    with pytest.raises(TrainingError, match="NaN or infinite values for a after step 3"):
        validate(network, read_held_out(make_recipe()), 2, step=3)


def test_preview_shows_nearest_bicubic_network_and_original(tmp_path, make_recipe):
    held_out = read_held_out(make_recipe())
    network = Nearest()
    torch.nn.init.constant_(network.offset, 0.25)
    write_preview(tmp_path / "p.png", network, held_out, 2)
    picture = read_image(tmp_path / "p.png")
    gap = 8
    width = max(photograph.pair.hr.shape[1] for photograph in held_out)
    text = draw_caption("original", width).shape[0]
    assert picture.shape[1:] == (4 * width + 3 * gap, 3)
    top = 0
    for photograph in held_out:
        height, own_width = photograph.pair.hr.shape[:2]
        lefts = range(0, picture.shape[1], width + gap)
        crops = [picture[top : top + height, left : left + own_width] for left in lefts]
        nearest = photograph.pair.lr.repeat(2, axis=0).repeat(2, axis=1)
        assert np.array_equal(crops[0], nearest)
        assert np.array_equal(crops[1], photograph.bicubic)
        lifted = np.rint(np.clip(nearest / 255 + 0.25, 0, 1) * 255)
        assert np.abs(crops[2] - lifted).max() <= 1
        assert np.array_equal(crops[3], photograph.pair.hr)
        top += height + text + gap
    assert picture.shape[0] == top - gap


def test_preview_crops_where_bicubic_is_worst(tmp_path, make_recipe, picture_folder):
    from sr_deploy.imaging.codec import write_image

    for path in picture_folder.rglob("*.png"):
        path.unlink()
    large = np.full((400, 640, 3), 128, np.uint8)
    large[300:340, 500:540] = np.random.default_rng(0).integers(0, 255, (40, 40, 3))
    write_image(picture_folder / "large.png", large)
    write_preview(tmp_path / "p.png", Nearest(), read_held_out(make_recipe()), 2)
    original = read_image(tmp_path / "p.png")[:160, -160:]
    assert original.shape == (160, 160, 3)
    assert (original != 128).any(axis=2).sum() > 1500
