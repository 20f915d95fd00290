"""What the trainer is compared with: the published loop, and what a small network learns from."""

import math

import pytest

from sr_deploy.train.paired import training_files
from sr_deploy.train.recipe import load_recipe


def test_the_published_code_gets_the_numbers_of_the_recipe(load_script, tmp_path):
    recipe = load_recipe("realesrgan")
    files = training_files(recipe).originals
    told = load_script("benchmarks/published_loop.py").describe_published(recipe, files, tmp_path)
    # As in its option file for RealESRGAN_x4plus.
    assert told["resize_prob"] == pytest.approx([0.2, 0.7, 0.1])
    assert told["resize_prob2"] == pytest.approx([0.3, 0.4, 0.3])
    assert (told["resize_range"], told["resize_range2"]) == ([0.15, 1.5], [0.3, 1.2])
    assert (told["noise_range"], told["noise_range2"]) == ([1, 30], [1, 25])
    assert (told["poisson_scale_range"], told["poisson_scale_range2"]) == ([0.05, 3], [0.05, 2.5])
    assert (told["jpeg_range"], told["jpeg_range2"]) == ([30, 95], [30, 95])
    assert (told["second_blur_prob"], told["queue_size"], told["gt_size"]) == (0.8, 180, 256)
    assert told["network_g"] == {
        "type": "RRDBNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 64, "num_block": 23, "num_grow_ch": 32,
    }  # fmt: skip
    assert told["network_d"] == {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 64}
    assert told["train"]["gan_opt"]["loss_weight"] == 0.1
    drawn = told["dataset"]
    assert drawn["kernel_prob"] == pytest.approx([0.45, 0.25, 0.12, 0.03, 0.12, 0.03])
    assert (drawn["blur_sigma"], drawn["blur_sigma2"]) == ([0.2, 3], [0.2, 1.5])
    assert (drawn["sinc_prob"], drawn["final_sinc_prob"]) == (0.1, 0.8)
    assert (tmp_path / "meta.txt").read_text().splitlines() == [str(path.resolve()) for path in files]
    assert math.isclose(told["train"]["optim_g"]["lr"], 1e-4)


def test_each_way_of_learning_has_a_row_with_its_curve(load_script):
    curve = [{"step": step, "psnr_y": 20 + step / 100} for step in (100.0, 200.0)]
    lower = [{**one, "psnr_y": one["psnr_y"] - 3} for one in curve]
    table = load_script("benchmarks/distillation.py").show({"the teacher": curve, "originals": lower})
    assert table[0] == "| learned from | 100 steps | 200 steps |"
    assert table[2:] == ["| the teacher | 21.00 | 22.00 |", "| originals | 18.00 | 19.00 |"]
