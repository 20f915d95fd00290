from pathlib import Path

import numpy as np
import pytest

from sr_deploy.errors import ImageError, InputError
from sr_deploy.imaging.codec import write_image
from sr_deploy.imaging.pairs import find_pairs, read_pair
from sr_deploy.imaging.resize import downscale_bicubic


def put(folder, names, height=8, width=8, channels=3):
    for name in names:
        write_image(folder / name, np.full((height, width, channels), 9, np.uint8))
    return folder


@pytest.mark.parametrize(
    ("hr", "lr"),
    [
        ("baby.png", "baby.png"),
        ("baby.png", "babyx4.png"),
        ("baby.png", "baby_x4.jpg"),
        ("baby_HR.png", "baby_LR.png"),
        ("baby_GT.png", "baby_LQ.png"),
        ("img_001_SRF_4_HR.png", "img_001_SRF_4_LR.png"),
        ("0801.png", "0801x4m.png"),
        ("max4.png", "max4x4.png"),
        ("sub/baby.png", "sub/babyx4.png"),
    ],
)
def test_names_of_published_sets_are_matched(tmp_path, hr, lr):
    put(tmp_path / "hr", [hr])
    put(tmp_path / "lr", [lr, "other.png", "bab.png"])
    (pair,) = find_pairs(tmp_path / "hr", tmp_path / "lr", 4)
    assert pair.name == Path(hr).stem
    assert (pair.hr, pair.lr) == (tmp_path / "hr" / hr, tmp_path / "lr" / lr)


def test_both_kinds_may_lie_in_one_folder(tmp_path):
    put(tmp_path, ["a_HR.png", "a_LR.png", "b_HR.png", "b_LR.png"])
    pairs = find_pairs(tmp_path, tmp_path, 4)
    assert [(pair.hr.name, pair.lr.name) for pair in pairs] == [("a_HR.png", "a_LR.png"), ("b_HR.png", "b_LR.png")]
    alone = find_pairs(tmp_path, None, 4)
    assert [(pair.hr.name, pair.lr) for pair in alone] == [("a_HR.png", None), ("b_HR.png", None)]


def test_the_scale_decides_between_several(tmp_path):
    put(tmp_path / "hr", ["baby.png"])
    put(tmp_path / "lr", ["babyx2.png", "babyx3.png", "babyx4.png"])
    assert find_pairs(tmp_path / "hr", tmp_path / "lr", 3)[0].lr.name == "babyx3.png"
    with pytest.raises(InputError, match=r"baby.png has more .*: babyx2.png, babyx3.png, babyx4"):
        find_pairs(tmp_path / "hr", tmp_path / "lr", 8)


def test_an_original_without_partner_is_an_error_that_names_what_would_be_found(tmp_path):
    put(tmp_path / "hr", ["baby.png", "bird.png"])
    put(tmp_path / "lr", ["babyx4.png", "sub/birdx4.png"])
    with pytest.raises(InputError, match=r"bird.png has no .*: bird, birdx4 or bird_LR would"):
        find_pairs(tmp_path / "hr", tmp_path / "lr", 4)
    put(tmp_path / "empty", ["a_LR.png"])
    with pytest.raises(InputError, match="empty holds no picture to compare with"):
        find_pairs(tmp_path / "empty", None, 4)
    with pytest.raises(InputError, match="none does not exist"):
        find_pairs(tmp_path / "none", None, 4)


def test_low_resolution_is_made_as_the_papers_do(tmp_path):
    original = np.random.default_rng(0).integers(0, 256, (25, 31, 3), np.uint8)
    write_image(tmp_path / "a.png", original)
    pair = read_pair(find_pairs(tmp_path, None, 4)[0], 4, channels=3)
    assert np.array_equal(pair.hr, original[:24, :28])
    assert np.array_equal(pair.lr, downscale_bicubic(original[:24, :28], 4))


def test_originals_may_have_a_rest_but_no_other_scale(tmp_path):
    put(tmp_path / "hr", ["a.png"], height=26, width=27)
    put(tmp_path / "lr", ["a.png"], height=6, width=6)
    (paths,) = find_pairs(tmp_path / "hr", tmp_path / "lr", 4)
    assert read_pair(paths, 4, channels=3).hr.shape == (24, 24, 3)
    with pytest.raises(ImageError, match=r"a.png \(26x27, HxW\) is not 2 times .*a.png \(6x6\)"):
        read_pair(paths, 2, channels=3)
    (alone,) = find_pairs(tmp_path / "lr", None, 8)
    with pytest.raises(ImageError, match=r"\(6x6, HxW\) is too small to be shrunk by 8"):
        read_pair(alone, 8, channels=3)


def test_gray_becomes_rgb_for_rgb_networks_and_rgb_never_gray(tmp_path):
    put(tmp_path / "gray", ["a.png"], channels=1)
    put(tmp_path / "rgb", ["a.png"])
    (gray,), (rgb,) = (find_pairs(tmp_path / name, None, 2) for name in ("gray", "rgb"))
    assert read_pair(gray, 2, channels=3).hr.shape == (8, 8, 3)
    assert read_pair(gray, 2, channels=1).lr.shape == (4, 4, 1)
    with pytest.raises(ImageError, match="is an RGB picture, but the network takes gray"):
        read_pair(rgb, 2, channels=1)
