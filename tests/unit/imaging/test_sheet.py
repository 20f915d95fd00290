import numpy as np
import pytest

from sr_deploy.errors import ShapeError
from sr_deploy.imaging.sheet import Cell, compose_sheet, draw_caption, find_worst_window


def plain(height, width, value, channels=3):
    return np.full((height, width, channels), value, np.uint8)


def test_cells_stand_in_rows_and_columns_on_white():
    sheet = compose_sheet([[Cell(plain(10, 20, 1)), Cell(plain(6, 8, 2, channels=1))], [Cell(plain(4, 5, 3))]], gap=3)
    expected = np.full((10 + 3 + 4, 20 + 3 + 8, 3), 255)
    expected[:10, :20] = 1
    expected[:6, 23:] = 2
    expected[13:, :5] = 3
    np.testing.assert_array_equal(sheet, expected)
    assert sheet.dtype == np.uint8


def test_captions_lie_below_the_highest_picture_of_the_row_and_inside_their_column():
    sheet = compose_sheet([[Cell(plain(40, 60, 0), "left"), Cell(plain(20, 60, 0))]], gap=4, text_size=12)
    assert sheet.shape[:2] == (40 + draw_caption("left", 60, 12).shape[0], 124)
    ink = sheet[40:].min(axis=2) < 128
    assert ink[:, :60].any()
    assert not ink[:, 60:].any()


def test_captions_are_folded_to_the_width():
    line = draw_caption("four", 200, 12).shape[0]
    two = draw_caption("four\nfour", 200, 12).shape[0]
    step = two - line
    assert step == 15
    narrow = draw_caption("four four four", 40, 12)
    assert narrow.shape == (line + 2 * step, 40, 3)
    # A word without a break is cut, not lost: nothing is drawn over the right edge.
    cut = draw_caption("W" * 12, 40, 12)
    assert cut.shape[0] > line
    whole = draw_caption("W" * 12, 400, 12)
    assert (cut < 128).sum() == pytest.approx((whole < 128).sum(), rel=0.1)
    assert draw_caption("", 40).shape == (0, 40, 3)


def test_the_worst_window_is_where_pictures_differ_most():
    a = plain(64, 96, 100)
    b = a.copy()
    b[35:50, 70:85] = 90  # inside rows 32 to 64 and columns 64 to 96
    b[0, 0] = 0
    assert find_worst_window(a, b, 32) == (slice(32, 64), slice(64, 96))
    rows, columns = find_worst_window(a[:20], b[:20], 32)
    assert a[:20][rows, columns].shape == (20, 32, 3)
    with pytest.raises(ShapeError, match=r"not \(64, 96, 3\) with \(20, 96, 3\)"):
        find_worst_window(a, b[:20], 32)


def test_what_is_no_picture_is_refused():
    with pytest.raises(ShapeError, match="at least one picture"):
        compose_sheet([[], []])
    with pytest.raises(ShapeError, match=r"not 4 x 4 of uint8"):
        compose_sheet([[Cell(np.zeros((4, 4), np.uint8))]])
    with pytest.raises(ShapeError, match="of float64"):
        compose_sheet([[Cell(np.zeros((4, 4, 3)))]])
