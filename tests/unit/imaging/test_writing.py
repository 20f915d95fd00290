"""Pictures written, or refused with nothing left behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sr_deploy.errors import ImageError, OutputError
from sr_deploy.imaging.codec import read_image, write_image


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".PNG"])
@pytest.mark.parametrize("channels", [1, 3])
def test_writes_without_loss(tmp_path: Path, photograph: NDArray[np.uint8], suffix: str, channels: int) -> None:
    path = tmp_path / "new" / f"a[1]{suffix}"
    write_image(path, photograph[..., :channels])
    with Image.open(path) as picture:
        assert picture.mode == ("RGB" if channels == 3 else "L")
        assert np.array_equal(np.asarray(picture), photograph[..., :channels].squeeze())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("suffix", "form", "error"), [(".jpg", "JPEG", 3.5), (".jpeg", "JPEG", 3.5), (".webp", "WEBP", 4)]
)
def test_writes_lossy_formats(
    tmp_path: Path, photograph: NDArray[np.uint8], suffix: str, form: str, error: float
) -> None:
    path = tmp_path / f"a{suffix}"
    write_image(path, photograph)
    with Image.open(path) as picture:
        assert picture.format == form
        assert np.abs(np.asarray(picture).astype(int) - photograph).mean() < error


def test_unknown_suffixes_are_refused(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    for name in ("a.bmp", "a", "a.svg"):
        with pytest.raises(ImageError, match=r"unknown suffix .*; name the output with one of \.png, \.jpg"):
            write_image(tmp_path / name, photograph)
    assert list(tmp_path.iterdir()) == []


def test_sides_that_a_format_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"\.webp .* up to 16383, not 16384x1; write \.png or \.tif"):
        write_image(tmp_path / "a.webp", np.zeros((1, 16384, 3), np.uint8))
    with pytest.raises(ImageError, match=r"\.jpg holds sides up to 65535"):
        write_image(tmp_path / "a.jpg", np.zeros((65536, 1, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_8_bit_picture_is_refused(tmp_path: Path) -> None:
    for image in (np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)):
        with pytest.raises(ImageError, match="a picture is H x W x 1 or 3 of 8 bit"):
            write_image(tmp_path / "a.png", image)


def test_unwritable_targets_leave_nothing(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        write_image(tmp_path / "file" / "a.png", photograph)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match="a folder stands where a file is needed"):
        write_image(tmp_path / "folder.png", photograph)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder.png"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_leaves_the_old_picture(
    tmp_path: Path, photograph: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    write_image(path, photograph)

    def write_to_full_disk(_self: Path, content: bytes) -> int:
        with open("/dev/full", "wb", buffering=0) as full:
            return full.write(content)

    monkeypatch.setattr(Path, "write_bytes", write_to_full_disk)
    with pytest.raises(OutputError, match="the disk is full"):
        write_image(path, 255 - photograph)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
    assert np.array_equal(read_image(path), photograph)
