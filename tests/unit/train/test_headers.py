from __future__ import annotations

import os
import shutil
import time

import numpy as np
import pytest

from sr_deploy.imaging.codec import write_image
from sr_deploy.run_folder import HEADERS_NAME
from sr_deploy.train import headers, training_images
from sr_deploy.train.headers import FileHeader, read_headers, read_kept_headers, write_headers
from tests.unit.train.test_photographs import open_folder


def test_headers_are_those_of_the_files_in_order(picture_folder):
    paths = open_folder(picture_folder).paths
    found = read_headers(paths)
    assert [(one.width, one.height) for one in found] == [(70, 50), (43, 41), (48, 64)]
    assert [one.path for one in found] == [str(path) for path in paths]
    assert [one.size for one in found] == [path.stat().st_size for path in paths]
    assert read_headers([picture_folder / "gone.png"]) == [FileHeader(str(picture_folder / "gone.png"), -1, 0)]


def test_a_line_says_how_far_it_is_while_there_is_more_to_come(picture_folder, monkeypatch, said):
    monkeypatch.setattr(headers, "_TOLD_SECONDS", 0.0)
    monkeypatch.setattr(headers, "_AT_ONCE", 2)
    read_headers([*open_folder(picture_folder).paths, picture_folder / "gone.png"])
    assert said == [f"read the headers of {count} of 4 pictures" for count in (0, 2)]


def test_ctrl_c_does_not_wait_for_the_headers_that_are_left(picture_folder, monkeypatch):
    opened = []

    def read_slowly(path, size):
        opened.append(path)
        time.sleep(0.01)
        return plain(path, size)

    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    plain = headers.read_head
    monkeypatch.setattr(headers, "read_head", read_slowly)
    monkeypatch.setattr(headers, "_TOLD_SECONDS", 0.0)
    monkeypatch.setattr(headers, "_AT_ONCE", 2)
    monkeypatch.setattr(headers._LOG, "info", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read_headers(open_folder(picture_folder).paths * 300)
    assert len(opened) < 450


def test_kept_headers_come_back_and_damaged_ones_do_not(tmp_path):
    written = [FileHeader("/a/b.png", 7, 10**18, 3, 4), FileHeader(os.fsdecode(b"\xff\n.png"), -1, 0)]
    write_headers(tmp_path, written)
    assert read_kept_headers(tmp_path) == written
    assert read_kept_headers(tmp_path / "nowhere") is None
    for damage in ("[1]\n", '["a", 1, 2, 3, 4.5]\n', "{}", '["a", 1, 2, 3', "[" * 60_000, "[" * 70_000):
        (tmp_path / HEADERS_NAME).write_text(damage)
        assert read_kept_headers(tmp_path) is None


def test_files_that_are_known_are_not_opened_again_wherever_they_were_moved(picture_folder, tmp_path, monkeypatch):
    known = read_headers(open_folder(picture_folder).paths)
    moved = tmp_path / "moved"
    shutil.move(picture_folder, moved)
    opened = []
    plain = headers.read_head
    monkeypatch.setattr(headers, "read_head", lambda path, size: opened.append(path.name) or plain(path, size))
    assert [one[1:] for one in read_headers(open_folder(moved).paths, known)] == [one[1:] for one in known]
    assert opened == []
    write_image(moved / "c.png", np.zeros((30, 20, 3), np.uint8))
    assert read_headers(open_folder(moved).paths, known)[1][3:] == (20, 30)
    assert opened == ["c.png"]


TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\3\0\0\0\1\0\6" + bytes(6)


@pytest.fixture
def odd_folder(picture_folder):
    """Pictures of which some cannot be used, each for another reason."""
    from tests.unit.imaging.test_dimensions import encode

    whole = (picture_folder / "a.png").read_bytes()
    for name, content in {
        "animated.png": whole[:33] + b"\0\0\0\x08acTL" + bytes(12) + whole[33:],
        "cmyk.jpg": encode("CMYK", "JPEG", (40, 40)),
        "cut.png": whole[: len(whole) // 2],
        "empty.png": b"",
        "gray.jpg": encode("L", "JPEG", (40, 50)),
        "narrow.jpg": encode("RGB", "JPEG", (15, 90)),
        "text.png": b"hello",
        "thin.webp": encode("RGB", "WEBP", (90, 15)),
        "turned.jpg": encode("RGB", "JPEG", (40, 17), exif=TURNED),
        "web.webp": encode("RGB", "WEBP", (44, 33)),
    }.items():  # fmt: skip
        (picture_folder / name).write_bytes(content)
    return picture_folder


@pytest.mark.parametrize("few", [1000, 0])
def test_headers_refuse_what_decoding_refuses_with_the_same_words(odd_folder, monkeypatch, said, few):
    decoded = open_folder(odd_folder)
    usable = [decoded.pair(index) is not None for index in range(len(decoded.paths))]
    words = sorted(said)
    assert (len(words), usable.count(False)) == (7, 7)
    said.clear()
    monkeypatch.setattr(training_images, "_FEW_FILES", few)
    examined = open_folder(odd_folder)
    examined.examine(threads=2)
    assert len(said) == (7 if few else 6)  # half a picture has a whole header: found when it is drawn
    assert [examined.pair(index) is not None for index in range(len(examined.paths))] == usable
    assert sorted(said) == words


def test_of_many_pictures_one_is_decoded_before_the_first_step(picture_folder, monkeypatch):
    photographs = open_folder(picture_folder)
    monkeypatch.setattr(training_images, "_FEW_FILES", 2)
    photographs.examine(threads=1)
    assert photographs.cached_bytes() == 48 * 68 * 3 * 17 // 16  # a.png
