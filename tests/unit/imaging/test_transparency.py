from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_deploy.errors import ShapeError
from sr_deploy.imaging.transparency import ColorBleeder, bleed_color


def test_black_under_a_disc_takes_the_discs_color() -> None:
    rows, columns = np.mgrid[:50, :70]
    alpha = np.where((rows - 20) ** 2 + (columns - 30) ** 2 < 15**2, 255, 0).astype(np.uint8)
    pixels = np.zeros((50, 70, 3), np.uint8)
    pixels[alpha > 0] = (200, 100, 50)
    bled = bleed_color(pixels, alpha)
    assert np.array_equal(bled, np.broadcast_to(np.array([200, 100, 50], np.uint8), bled.shape))


def test_each_side_keeps_its_color() -> None:
    pixels = np.zeros((32, 64, 3), np.uint16)
    alpha = np.zeros((32, 64), np.uint16)
    pixels[:, :8], pixels[:, 56:] = (60000, 0, 0), (0, 0, 60000)
    alpha[:, :8] = alpha[:, 56:] = 65535
    bled = bleed_color(pixels, alpha).astype(int)
    assert bled.dtype.kind == "i"
    assert tuple(bled[10, 9]) == (60000, 0, 0)
    assert tuple(bled[10, 54]) == (0, 0, 60000)


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 99), share=st.floats(0, 1))
def test_what_is_seen_stays_and_the_rest_lies_within_its_range(
    height: int, width: int, seed: int, share: float
) -> None:
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (height, width, 3), np.uint8)
    alpha = np.where(random.random((height, width)) < share, random.integers(1, 256, (height, width)), 0)
    alpha = alpha.astype(np.uint8)
    bled = bleed_color(pixels, alpha)
    seen = alpha > 0
    assert np.array_equal(bled[seen], pixels[seen])
    if seen.any():
        assert (bled >= pixels[seen].min(axis=0)).all()
        assert (bled <= pixels[seen].max(axis=0)).all()
    else:
        assert bled is pixels


def test_sides_must_agree() -> None:
    with pytest.raises(ShapeError, match=r"alpha is H x W like the picture, \(4, 5\), not \(5, 4\)"):
        bleed_color(np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), np.uint8))


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 40),
    share=st.sampled_from([0.0, 0.002, 0.3, 1.0]),
    deep=st.booleans(),
)
def test_strips_are_bled_as_the_whole_picture(height: int, width: int, share: float, deep: bool) -> None:
    random = np.random.default_rng(height * width)
    dtype = np.uint16 if deep else np.uint8
    pixels = random.integers(0, np.iinfo(dtype).max, (height, width, 3), dtype)
    alpha = (random.random((height, width)) < share).astype(dtype)
    bleeder = ColorBleeder()
    tops = range(0, height, 64)
    for top in tops:
        bleeder.look(pixels[top : top + 64], alpha[top : top + 64])
    strips = [bleeder.bleed(pixels[top : top + 64], alpha[top : top + 64], top) for top in tops]
    assert np.array_equal(np.concatenate(strips), bleed_color(pixels, alpha))
