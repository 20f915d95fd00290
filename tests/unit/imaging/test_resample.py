from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_deploy.errors import ShapeError
from sr_deploy.imaging.codec import bundled_photographs, read_image
from sr_deploy.imaging.resample import resample
from sr_deploy.imaging.resize import downscale_bicubic, upscale_bicubic


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    return read_image(bundled_photographs()["chelsea"])[:120, :160]


def test_bicubic_lies_where_the_papers_bicubic_lies(photograph: np.ndarray) -> None:
    larger = np.abs(resample(photograph, 640, 480, "bicubic").astype(int) - upscale_bicubic(photograph, 4))
    assert larger[16:-16, 16:-16].max() <= 1  # at the borders they differ in what lies outside
    smaller = np.abs(resample(photograph, 80, 60, "bicubic").astype(int) - downscale_bicubic(photograph, 2))
    assert smaller[4:-4, 4:-4].max() <= 2


@pytest.mark.parametrize("kernel", ["lanczos", "bicubic"])
def test_16_bit_is_finer_than_8(photograph: np.ndarray, kernel: str) -> None:
    fine = resample(photograph.astype(np.uint16) * 257, 407, 301, kernel)  # type: ignore[arg-type]
    coarse = resample(photograph, 407, 301, kernel)  # type: ignore[arg-type]
    assert fine.dtype == np.uint16
    assert np.abs(fine / 257 - coarse).max() < 2
    assert (fine % 257 != 0).mean() > 0.9


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    wanted=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    channels=st.sampled_from([1, 3]),
    deep=st.booleans(),
)
def test_any_size_to_any_other(size: tuple[int, int], wanted: tuple[int, int], channels: int, deep: bool) -> None:
    value = 40000 if deep else 200
    flat = np.full((*size, channels), value, np.uint16 if deep else np.uint8)
    result = resample(flat, wanted[1], wanted[0], "lanczos")
    assert result.shape == (*wanted, channels)
    assert result.dtype == flat.dtype
    assert np.abs(result.astype(int) - value).max() <= 1


def test_the_same_size_is_the_same_picture(photograph: np.ndarray) -> None:
    assert resample(photograph, 160, 120, "lanczos") is photograph
    with pytest.raises(ShapeError, match="at least 1 pixel, not 0x5"):
        resample(photograph, 0, 5, "lanczos")
