import numpy as np
import pytest

from sr_deploy.bundle import Shape
from sr_deploy.errors import InputError
from sr_deploy.verification.contents import CONTENTS, PURE, draw_content


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize(("shape", "channels"), [(Shape(3, 20, 31), 3), (Shape(1, 41, 1), 1), (Shape(1, 1, 43), 3)])
def test_every_content_fills_every_shape_and_is_always_the_same(content, shape, channels):
    batch = draw_content(content, shape, channels, 4)
    assert batch.shape == (shape.n, channels, shape.h, shape.w)
    assert batch.dtype == np.float32
    assert batch.flags["C_CONTIGUOUS"]
    assert 0 <= batch.min() <= batch.max() <= 1
    assert np.array_equal(batch, draw_content(content, shape, channels, 4))
    if content != "photograph" or channels == 3:
        levels = batch * 255
        assert np.abs(levels - np.rint(levels)).max() < 1e-4
    if shape.n > 1 and content not in PURE:
        assert not np.array_equal(batch[0], batch[1])


def test_contents_are_what_they_are_called():
    shape = Shape(1, 24, 32)
    board = draw_content("checkerboard", shape, 3, 2)[0, 0]
    assert set(np.unique(board)) == {0, 1}
    assert (board[:, 1:] != board[:, :-1]).all()
    assert (board[1:] != board[:-1]).all()
    assert np.ptp(draw_content("flat", shape, 3, 2), axis=(2, 3)).max() == 0
    assert set(np.unique(draw_content("saturated", shape, 3, 2))) == {0, 1}
    assert 0 < draw_content("dark", shape, 3, 2).max() <= 8 / 255 + 1e-7
    red, green, _ = draw_content("gradient", shape, 3, 2)[0]
    assert (np.diff(red, axis=1) > 0).all()
    assert (np.diff(green, axis=0) > 0).all()
    assert len(np.unique(draw_content("noise", shape, 3, 2))) > 200
    text = draw_content("text", shape, 3, 2)[0, 0]
    assert 0.05 < (text < 0.5).mean() < 0.5


def test_pure_colors_fill_the_picture_and_gray_networks_get_their_luma():
    shape = Shape(2, 5, 4)
    for name, due in zip(PURE, ((0, 0, 0), (1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)), strict=True):
        assert (draw_content(name, shape, 3, 2) == np.array(due, np.float32)[None, :, None, None]).all()
    levels = [float(draw_content(name, shape, 1, 2).max()) * 255 for name in PURE]
    assert levels == pytest.approx([0, 255, 76, 150, 29])


def test_an_unknown_content_is_refused_with_those_there_are():
    with pytest.raises(InputError, match="there is no content 'cat'; there are photograph, text,"):
        draw_content("cat", Shape(1, 8, 8), 3, 2)
