import numpy as np
import pytest

from sr_deploy.errors import InputError
from sr_deploy.imaging.codec import list_images, write_image
from sr_deploy.imaging.pair_layouts import split_folder


def put(folder, *names):
    for name in names:
        write_image(folder / name, np.zeros((8, 8, 3), np.uint8))
    return folder


def split(folder, scale):
    found = split_folder(folder, list_images(folder), scale)
    named = {str(hr.relative_to(folder)): str(lr.relative_to(folder)) for hr, lr in found.partners.items()}
    return [str(path.relative_to(folder)) for path in found.originals], named, found.left_aside


@pytest.mark.parametrize(
    ("hr", "lr"),
    [
        ("HR/0801.png", "LR_bicubic/X4/0801x4.png"),
        ("sets/Set5/HR/baby.png", "sets/Set5/LR_bicubic/X4/babyx4.png"),
        ("DIV2K_train_HR/0001.png", "DIV2K_train_LR_bicubic/X4/0001x4.png"),
        ("DIV2K_train_HR/0001.png", "DIV2K_train_LR_mild/0001x4m.png"),
        ("GT/a.png", "LQ/a.png"),
        ("hr/sub/a.png", "lr_x4/sub/a.png"),
        ("a_HR.png", "a_LR.png"),
        ("4/Canon_001_HR.png", "4/Canon_001_LR4.png"),
        ("img_001_SRF_4_HR.png", "img_001_SRF_4_LR.png"),
    ],
)
def test_published_layouts_are_pairs(tmp_path, hr, lr):
    assert split(put(tmp_path, hr, lr), 4) == ([hr], {hr: lr}, 1)


def test_each_scale_has_its_own_pictures_and_those_of_others_are_no_originals(tmp_path):
    put(tmp_path, "HR/a.png", "LR_bicubic/X2/ax2.png", "LR_bicubic/X4/ax4.png", "more/b.png")
    assert split(tmp_path, 2) == (["HR/a.png", "more/b.png"], {"HR/a.png": "LR_bicubic/X2/ax2.png"}, 2)
    assert split(tmp_path, 3) == (["HR/a.png", "more/b.png"], {}, 2)


def test_names_that_only_look_like_low_resolution_are_originals(tmp_path):
    names = ["LR/a.png", "b_LR.png", "x/HR/c.png", "y/LR/d.png"]
    assert split(put(tmp_path, *names), 4) == (names, {}, 0)


def test_two_folders_of_one_scale_are_for_the_user_to_choose_from(tmp_path):
    put(tmp_path, "HR/a.png", "LR_bicubic/X4/ax4.png", "LR_unknown/X4/ax4.png")
    with pytest.raises(InputError, match=r"x4 beside HR: LR_bicubic/X4, LR_unknown/X4; name one as data.lr_folder"):
        split(tmp_path, 4)


def test_an_original_without_partner_is_named(tmp_path):
    put(tmp_path, "HR/a.png", "HR/b.png", "LR_bicubic/X4/ax4.png")
    with pytest.raises(InputError, match=r"b.png has no low-resolution picture in .*X4: b, bx4 or b_LR would be found"):
        split(tmp_path, 4)
