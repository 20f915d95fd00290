from __future__ import annotations

import tomllib

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sr_deploy.arch.lpips import Lpips
from sr_deploy.config import companion_folder
from sr_deploy.errors import InputError
from sr_deploy.imaging.codec import read_image, write_image
from sr_deploy.imaging.resize import downscale_bicubic, upscale_bicubic
from sr_deploy.measure.niqe import niqe
from sr_deploy.measure.quality import average_scores, score_pair
from sr_deploy.train.run import ValidationResult
from sr_deploy.train.validation import read_held_out, validate


class Nearest(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(1))

    def forward(self, lr_NCHW: torch.Tensor) -> torch.Tensor:
        return F.interpolate(lr_NCHW, scale_factor=2.0, mode="nearest") + self.offset


def degradation() -> dict[str, object]:
    text = (companion_folder("train") / "realesrgan.toml").read_text()
    return {**tomllib.loads(text)["degradation"], "canvas": 40}


def test_the_middle_is_degraded_by_draws_of_its_own_that_stay(make_recipe):
    recipe = make_recipe(degradation=degradation())
    held_out, again = read_held_out(recipe), read_held_out(recipe)
    middle = held_out[0].pair.hr[5:45, 15:55]
    assert np.array_equal(held_out[0].degraded.pair.hr, middle)
    assert held_out[0].degraded.pair.lr.shape == (20, 20, 3)
    assert not np.array_equal(held_out[0].degraded.pair.lr, downscale_bicubic(middle, 2))
    assert all(
        np.array_equal(one.degraded.pair.lr, other.degraded.pair.lr) for one, other in zip(held_out, again, strict=True)
    )
    other = read_held_out(recipe.model_copy(update={"seed": recipe.seed + 1}))
    assert not np.array_equal(held_out[0].degraded.pair.lr, other[0].degraded.pair.lr)
    assert all(photograph.degraded is None for photograph in read_held_out(make_recipe()))


def test_degraded_photographs_are_scored_beside_bicubic(make_recipe):
    held_out = read_held_out(make_recipe(degradation=degradation()))
    result = validate(Nearest(), iter(held_out), 2, step=5)  # as a training that can be stopped gives them
    assert [row.name for row in result.degraded] == ["a", "c", "b"]
    pair = held_out[1].degraded.pair
    bicubic = score_pair(upscale_bicubic(pair.lr, 2), pair.hr, 2)
    assert result.degraded[1].bicubic.psnr_y == bicubic.psnr_y
    assert result.degraded[1].model.psnr_y == score_pair(pair.lr.repeat(2, 0).repeat(2, 1), pair.hr, 2).psnr_y
    assert average_scores([row.bicubic for row in result.degraded]).psnr_y < result.bicubic.psnr_y  # noise and JPEG
    assert ValidationResult.model_validate_json(result.model_dump_json()) == result


def test_niqe_stands_beside_psnr_where_a_picture_is_large_enough(make_recipe, picture_folder):
    large = np.random.default_rng(0).integers(0, 256, (112, 216, 3), np.uint8)
    write_image(picture_folder / "large.png", large)
    result = validate(Nearest(), read_held_out(make_recipe()), 2, step=0)
    scored = {row.name: row for row in result.photographs}
    lr = downscale_bicubic(large, 2)
    assert scored["large"].model.niqe == niqe(lr.repeat(2, 0).repeat(2, 1), 2)
    assert scored["large"].bicubic.niqe == niqe(upscale_bicubic(lr, 2), 2)
    assert scored["a"].model.niqe is None
    assert result.model.niqe == pytest.approx(scored["large"].model.niqe)


def test_lpips_stands_there_too_where_its_weights_are(make_recipe, lpips_files, picture_folder):
    write_image(picture_folder / "tiny.png", np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8))
    recipe = make_recipe(run={"steps": 4, "lpips": tuple(map(str, lpips_files))})
    scored = {row.name: row for row in validate(Nearest(), read_held_out(recipe), 2, step=0).photographs}
    hr = read_image(picture_folder / "a.png")
    lr = downscale_bicubic(hr, 2)
    measure = Lpips.read(*lpips_files)
    for enlarged, found in (
        (lr.repeat(2, 0).repeat(2, 1), scored["a"].model),
        (upscale_bicubic(lr, 2), scored["a"].bicubic),
    ):
        assert found.lpips == measure(enlarged[2:-2, 2:-2], hr[2:-2, 2:-2])
    assert scored["tiny"].model.lpips is None
    with pytest.raises(InputError, match="nowhere"):
        read_held_out(make_recipe(run={"steps": 4, "lpips": ("nowhere.pth", "alex.pth")}))


def test_runs_of_before_still_read():
    figures = {"psnr_y": 30.0, "ssim_y": 0.9, "psnr_rgb": 28.0, "ssim_rgb": 0.8}
    row = {"name": "a", "model": figures, "bicubic": figures}
    read = ValidationResult.model_validate({"step": 1, "model": figures, "bicubic": figures, "photographs": [row]})
    assert (read.degraded, read.model.niqe, read.photographs[0].model.psnr_y) == ((), None, 30.0)
