from __future__ import annotations

import hashlib
import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sr_deploy.errors import ShapeError
from sr_deploy.imaging.codec import read_image
from sr_deploy.imaging.resize import downscale_bicubic, shrink_bicubic, upscale_bicubic
from sr_deploy.measure.quality import score_pair

DATA = os.environ.get("SR_DEPLOY_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="SR_DEPLOY_DATA does not name the folder with Set14")


def column(*values: int) -> NDArray[np.uint8]:
    """A picture two pixels wide, the same in both columns."""
    return np.repeat(np.array(values, np.uint8)[:, None, None], 2, axis=1)


def imresize(image: NDArray[np.uint8], factor: float, round_between: bool) -> NDArray[np.uint8]:
    """MATLAB's algorithm written out: for each output sample its taps, weights and clamped indices."""

    def cubic(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0

    def along_rows(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        shrink = min(factor, 1.0)
        width = 4 / shrink
        result = np.zeros((round(rows.shape[0] * factor), *rows.shape[1:]))
        for out in range(result.shape[0]):
            center = (out + 1) / factor + 0.5 * (1 - 1 / factor)
            left = math.floor(center - width / 2)
            taps = [left + tap for tap in range(math.ceil(width) + 2)]
            weights = [cubic(shrink * (center - tap)) for tap in taps]
            for tap, weight in zip(taps, weights, strict=True):
                result[out] += weight / sum(weights) * rows[min(max(tap, 1), rows.shape[0]) - 1]
        return result

    def to_8bit(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.clip(np.floor(values + 0.5), 0, 255)

    vertical = along_rows(image.astype(np.float64))
    if round_between:
        vertical = to_8bit(vertical)
    return to_8bit(along_rows(vertical.transpose(1, 0, 2)).transpose(1, 0, 2)).astype(np.uint8)


def draw_picture() -> NDArray[np.uint8]:
    """Edges, waves and pseudo-random noise in three channels, the same on every machine (integers only)."""
    rows, columns = np.mgrid[0:88, 0:120].astype(np.int64)
    noise = (rows * 7919 + columns * 104729 + rows * columns * 31) % 251
    rings = (rows * rows + columns * columns) // 37 % 256
    edges = np.where((rows // 11 + columns // 13) % 2 == 0, 0, 255)
    return np.stack([noise, rings, edges], axis=2).astype(np.uint8)


def test_step_worked_by_hand() -> None:
    # Weights at x2: 111, 29, -9, -3 (of 256) on either side. Row 3 sees 29 - 9 - 3 = 17 of 256 of the white half.
    shrunk = downscale_bicubic(column(*[0] * 8, *[255] * 8), 2)
    assert shrunk[:, 0, 0].tolist() == [0, 0, 0, 17, 238, 255, 255, 255]


def test_halves_go_up() -> None:
    # 29/256 of 128 is 14.5, which rounding to even would make 14; 111/256 of 128 is 55.5.
    shrunk = downscale_bicubic(column(*[0] * 8, 128, *[0] * 7), 2)
    assert shrunk[:, 0, 0].tolist() == [0, 0, 0, 15, 56, 0, 0, 0]


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_part_has_the_bits_of_that_part_of_the_whole(scale: int, depth: type) -> None:
    random = np.random.default_rng(scale)
    hr = random.integers(0, np.iinfo(depth).max + 1, (12 * scale, 15 * scale, 3)).astype(depth)
    whole = downscale_bicubic(hr, scale)
    for top, left in itertools.product((0, 1, 2, 3, 5, 8), (0, 1, 2, 3, 7, 11)):  # the last ones end at the borders
        part = downscale_bicubic(hr, scale, range(top, top + 4), range(left, left + 4))
        assert part.dtype == depth
        assert np.array_equal(part, whole[top : top + 4, left : left + 4])
    assert np.array_equal(downscale_bicubic(hr, scale, rows=range(5, 6)), whole[5:6])
    assert np.array_equal(downscale_bicubic(hr, scale, columns=range(15)), whole)


def test_borders_are_replicated() -> None:
    # Three taps outside and one inside all read the first row: half the weight. Mirroring would give 55.
    assert downscale_bicubic(column(100, *[0] * 15), 2)[0, 0, 0] == 50


def test_enlarging_worked_by_hand() -> None:
    # Offsets 0.75 and 0.25: weights of the impulse 58, 222 (of 256) on the near side, -18 and -6 further out.
    enlarged = upscale_bicubic(column(0, 0, 0, 200, 0, 0, 0, 0), 2)[:, 0, 0].tolist()
    assert enlarged == [0, 0, 0, 0, 0, 45, 173, 173, 45, 0, 0, 0, 0, 0, 0, 0]
    assert upscale_bicubic(column(*[100] * 3, 200, *[100] * 3), 2)[3:6, 0, 0].tolist() == [98, 93, 123]


def test_a_flat_picture_stays_flat() -> None:
    for value in (0, 1, 127, 254, 255):
        flat = np.full((24, 36, 3), value, np.uint8)
        for scale in (1, 2, 3, 4, 6):
            assert (downscale_bicubic(flat, scale) == value).all()
            assert (upscale_bicubic(flat, scale) == value).all()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    channels=st.sampled_from([1, 3]),
    scale=st.sampled_from([1, 2, 4, 8]),
)
def test_equals_the_algorithm_written_out(seed: int, height: int, width: int, channels: int, scale: int) -> None:
    # Scales that are powers of two: all sums are exact, so there is one right answer.
    image = np.random.default_rng(seed).integers(0, 256, (height * scale, width * scale, channels), np.uint8)
    assert np.array_equal(downscale_bicubic(image, scale), imresize(image, 1 / scale, round_between=True))
    small = image[:6, :6]
    assert np.array_equal(upscale_bicubic(small, scale), imresize(small, scale, round_between=False))


@pytest.mark.parametrize("scale", [3, 5])
def test_other_scales_are_within_rounding(scale: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (6 * scale, 5 * scale, 3), np.uint8)
    shrunk = downscale_bicubic(image, scale).astype(int)
    assert np.abs(shrunk - imresize(image, 1 / scale, round_between=True)).max() <= 1
    enlarged = upscale_bicubic(image[:7, :8], scale).astype(int)
    assert np.abs(enlarged - imresize(image[:7, :8], scale, round_between=False)).max() <= 1


@pytest.mark.parametrize(
    ("scale", "shrunk_hash", "enlarged_hash"),
    [
        (2, "b1278bbc9bec1685", "06c9482bbd39c037"),
        (4, "6719f29671d1c62b", "7647faa6cfc01d4f"),
    ],
)
def test_drawn_picture_has_not_changed(scale: int, shrunk_hash: str, enlarged_hash: str) -> None:
    # Values of the code that reproduced all of Set14's published pictures bit for bit.
    shrunk, enlarged = downscale_bicubic(draw_picture(), scale), upscale_bicubic(draw_picture(), scale)
    assert hashlib.sha256(shrunk.tobytes()).hexdigest()[:16] == shrunk_hash
    assert hashlib.sha256(enlarged.tobytes()).hexdigest()[:16] == enlarged_hash


def test_refuses_what_does_not_divide() -> None:
    with pytest.raises(ShapeError, match=r"a 9x8 picture .* shrunk by 4: .* multiples of 4"):
        downscale_bicubic(np.zeros((9, 8, 3), np.uint8), 4)
    with pytest.raises(ShapeError, match="not 8 x 8 of uint8"):
        upscale_bicubic(np.zeros((8, 8), np.uint8), 2)
    with pytest.raises(ShapeError, match="of float32"):
        downscale_bicubic(np.zeros((8, 8, 3), np.float32), 2)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="no empty side"):
        upscale_bicubic(np.zeros((0, 8, 3), np.uint8), 2)
    with pytest.raises(ShapeError, match="not 0"):
        upscale_bicubic(np.zeros((8, 8, 3), np.uint8), 0)


def set14() -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """(high, low) resolution; picture 3 is gray."""
    folder = Path(DATA or "") / "valid" / "set14"
    pairs = []
    for number in range(1, 15):
        channels = 1 if number == 3 else 3
        hr, lr = (read_image(folder / f"img_{number:03d}_SRF_4_{kind}.png", channels) for kind in ("HR", "LR"))
        pairs.append((hr, lr))
    return pairs


@needs_data
def test_set14_low_resolution_pictures_bit_for_bit() -> None:
    different = [
        number for number, (hr, lr) in enumerate(set14(), 1) if not np.array_equal(downscale_bicubic(hr, 4), lr)
    ]
    assert different == []


@needs_data
def test_set14_bicubic_scores_as_published() -> None:
    scores = [score_pair(upscale_bicubic(lr, 4), hr, 4) for hr, lr in set14()]
    assert round(float(np.mean([score.psnr_y for score in scores])), 2) == 26.09
    assert round(float(np.mean([score.ssim_y for score in scores])), 4) == 0.7049
    assert round(float(np.mean([score.psnr_rgb for score in scores])), 2) == 24.47


def test_shrinking_to_any_size_is_matlabs() -> None:
    picture = draw_picture()
    for factor in (0.75, 0.625, 0.5, 0.25):  # all sides stay whole: 88 x 120
        size = (int(88 * factor), int(120 * factor))
        assert np.array_equal(shrink_bicubic(picture, size), imresize(picture, factor, round_between=True))
    assert np.array_equal(shrink_bicubic(picture, (44, 60)), downscale_bicubic(picture, 2))
    assert np.array_equal(shrink_bicubic(picture, (88, 120)), picture)


def test_a_part_of_a_shrunk_picture_has_the_bits_of_the_whole() -> None:
    whole = shrink_bicubic(draw_picture(), (29, 43))
    for rows, columns in ((range(29), range(5, 6)), (range(20, 29), range(43)), (range(3), range(40, 43))):
        part = shrink_bicubic(draw_picture(), (29, 43), rows, columns)
        assert np.array_equal(part, whole[rows.start : rows.stop, columns.start : columns.stop])


@pytest.mark.parametrize("size", [(89, 120), (88, 121), (0, 120)])
def test_nothing_is_enlarged_by_shrinking(size: tuple[int, int]) -> None:
    with pytest.raises(ShapeError, match=rf"a 88x120 picture \(HxW\) cannot be shrunk to {size[0]}x{size[1]}"):
        shrink_bicubic(draw_picture(), size)
