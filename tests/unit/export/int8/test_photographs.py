from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.errors import ImageError, InputError
from sr_deploy.export.int8.calibration_images import CropShape, cut_crops, find_calibration_images
from sr_deploy.imaging.codec import write_image
from sr_deploy.imaging.resize import downscale_bicubic

SHAPE = CropShape(side=16, scale=2, channels=3, seed=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for number in range(8):
        write_image(tmp_path / f"{number}.png", random.integers(0, 256, (40, 50 + number, 3), dtype=np.uint8))
    return tmp_path


def test_photographs_are_divided_by_their_content(folder):
    found = find_calibration_images(folder)
    assert (len(found.calibration), len(found.held_out), len(found.hashes)) == (6, 2, 8)
    assert not set(found.calibration) & set(found.held_out)
    held = {path.read_bytes() for path in found.held_out}
    for path in list(folder.glob("*.png")):
        path.rename(path.with_name(f"x{99 - int(path.stem)}.png"))
    shutil.copyfile(folder / "x99.png", folder / "again.png")  # a copy counts once
    again = find_calibration_images(folder)
    assert again.hashes == found.hashes
    assert {path.read_bytes() for path in again.held_out} == held


def test_crops_are_pairs_and_the_same_each_time(folder):
    paths = find_calibration_images(folder).calibration
    first, again, other = (list(cut_crops(paths, 9, SHAPE, stream)) for stream in (0, 0, 1))
    assert len(first) == 9
    for one, two in zip(first, again, strict=True):
        assert np.array_equal(one.lr, two.lr)
        small = downscale_bicubic(one.hr, 2)
        assert np.array_equal(one.lr, small)
        assert np.array_equal(np.rint(one.network_input * 255), small.transpose(2, 0, 1)[None])
        assert one.network_input.shape == (1, 3, 16, 16)
    assert any(not np.array_equal(one.lr, two.lr) for one, two in zip(first, other, strict=True))
    assert not np.array_equal(first[0].lr, first[len(paths)].lr)  # the same photograph, another place


def test_gray_networks_get_gray_crops(folder):
    (crop,) = cut_crops(find_calibration_images(folder).calibration, 1, CropShape(16, 2, 1, 0), 0)
    assert (crop.network_input.shape, crop.hr.shape) == ((1, 1, 16, 16), (32, 32, 1))


def test_small_photographs_are_passed_over_and_missing_ones_refused(folder, tmp_path_factory):
    paths = find_calibration_images(folder).calibration
    wide = CropShape(side=25, scale=2, channels=3, seed=0)
    with pytest.raises(InputError, match=r"no photograph to calibrate with is as large as 50x50"):
        list(cut_crops(paths, 1, wide, 0))
    write_image(folder / "large.png", np.zeros((60, 60, 3), np.uint8))
    only = {crop.hr.max() for crop in cut_crops([*paths, folder / "large.png"], 3, wide, 0)}
    assert only == {0}
    with pytest.raises(InputError, match="holds no picture to calibrate with"):
        find_calibration_images(tmp_path_factory.mktemp("empty"))
    with pytest.raises(InputError, match="does not exist"):
        find_calibration_images(folder / "gone")
    (folder / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"broken\.png.*while calibrating INT8"):
        list(cut_crops([folder / "broken.png"], 1, SHAPE, 0))


def test_memory_does_not_grow_with_the_number_of_crops(folder):
    paths = find_calibration_images(folder).calibration

    def peak(count: int) -> int:
        tracemalloc.start()
        for _ in cut_crops(paths, count, SHAPE, 0):
            pass
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(2)
    assert peak(60) < 1.3 * peak(6)
