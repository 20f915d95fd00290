import numpy as np
import pytest

from sr_deploy.verification.budget_stages import Stage, choose_images, make_stages, measure_psnr, write_and_read


def constant(value):
    return [np.full((1, 3, 4, 5), value, np.float32)]


def test_each_stage_is_compared_with_the_oracle_the_one_before_and_the_truth():
    truth = constant(0.5)
    stages = [
        Stage("torch", "a", constant(0.6)),
        Stage("half", "b", constant(0.61)),
        Stage("file", "c", constant(0.61)),
    ]
    first, half, file = make_stages(stages, truth)
    assert (first.psnr_db, first.lost_db) == (None, 0.0)
    assert first.truth_psnr_db == pytest.approx(20, abs=1e-4)
    assert half.psnr_db == half.step_psnr_db == pytest.approx(40, abs=1e-3)
    assert half.lost_db == pytest.approx(20 * np.log10(0.11 / 0.1), abs=1e-4)
    assert (file.step_psnr_db, file.lost_db) == (None, 0.0)
    assert file.psnr_db == half.psnr_db


def test_psnr_is_of_all_pictures_together_and_clamped():
    assert measure_psnr(constant(2.0), constant(1.0)) is None
    assert measure_psnr([*constant(0.5), *constant(0.5)], [*constant(0.5), *constant(0.6)]) == pytest.approx(
        20 + 10 * np.log10(2), abs=1e-4
    )
    assert measure_psnr(constant(np.nan), constant(1.0)) == 0


def test_an_8_bit_file_rounds_and_clamps():
    (read,) = write_and_read([np.array([[[[0.1, 0.5, 1.7, -0.2]] * 4] * 3], np.float32).reshape(1, 3, 4, 4)])
    assert read.shape == (1, 3, 4, 4)
    assert np.array_equal(np.unique(np.rint(read * 255)), [0, 26, 128, 255])


def test_photographs_are_wide_enough_for_tiles_and_fewer_for_costly_networks():
    cheap = choose_images(3, 4, 1, halo=40, multiply_adds=1e3)
    assert len(cheap) == 4
    assert all(one.lr.shape == (64, 144, 3) and one.hr.shape == (256, 576, 3) for one in cheap)
    (dear,) = choose_images(1, 2, 4, halo=3, multiply_adds=18e6)
    assert (dear.lr.shape, dear.hr.shape) == ((64, 128, 1), (128, 256, 1))
    (fixed, *_) = choose_images(3, 1, 1, halo=3, multiply_adds=1e3, fixed=(7, 9))
    assert np.array_equal(fixed.lr, fixed.hr)
    assert fixed.lr.shape == (7, 9, 3)
