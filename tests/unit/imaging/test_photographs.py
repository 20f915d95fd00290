from __future__ import annotations

import numpy as np

from sr_deploy.imaging.photographs import crop_to_multiple, cut_middle, draw_corner

PICTURE = np.arange(7 * 10 * 3, dtype=np.uint8).reshape(7, 10, 3)


def test_what_is_no_whole_multiple_is_left_out_at_the_bottom_and_right():
    cropped = crop_to_multiple(PICTURE, 4)
    assert np.array_equal(cropped, PICTURE[:4, :8])
    assert cropped.flags.c_contiguous


def test_the_middle_is_cut_and_what_is_missing_is_mirrored():
    assert np.array_equal(cut_middle(PICTURE, 4, 5), PICTURE[1:5, 2:7])
    tall = cut_middle(PICTURE, 9, 5)
    assert np.array_equal(tall[:7], PICTURE[:, 2:7])
    assert np.array_equal(tall[7:], PICTURE[:4:-1, 2:7])


def test_corners_are_drawn_everywhere_that_a_square_fits():
    random = np.random.default_rng(0)
    corners = {draw_corner(PICTURE, 6, random) for _ in range(200)}
    assert corners == {(top, left) for top in range(2) for left in range(5)}
    assert {draw_corner(PICTURE, 8, random)[0] for _ in range(9)} == {0}  # shorter than the square
