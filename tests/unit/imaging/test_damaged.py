"""Files that are cut short or spoiled: always an error, with the reason that belongs to them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sr_deploy.errors import ImageError
from sr_deploy.imaging.codec import read_image, read_training_image
from sr_deploy.imaging.pillow import read_rgb


def encode(photograph: NDArray[np.uint8], form: str, tmp_path: Path) -> bytes:
    options = {"JPEG": {"quality": 90}, "PROGRESSIVE": {"progressive": True}, "WEBP": {"lossless": True}}.get(form, {})
    Image.fromarray(photograph).save(tmp_path / "whole", form.replace("PROGRESSIVE", "JPEG"), **options)
    return (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("form", ["JPEG", "PROGRESSIVE", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.99])
def test_truncated_files_are_errors_to_either_decoder(
    tmp_path: Path, photograph: NDArray[np.uint8], form: str, share: float
) -> None:
    whole = encode(photograph, form, tmp_path)
    path = tmp_path / "cut"
    path.write_bytes(whole[: int(share * len(whole))])
    for read in (read_image, read_training_image, read_rgb):
        with pytest.raises(ImageError, match=r"damaged or incomplete|is not a picture that can be read") as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_a_jpeg_without_its_end_is_truncated(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    path = tmp_path / "cut.jpg"
    path.write_bytes(encode(photograph, "JPEG", tmp_path)[:-40])
    with pytest.raises(ImageError, match=r"incomplete JPEG file \(.*premature end of JPEG image\)"):
        read_image(path)


def test_corrupt_png_is_an_error(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    content = bytearray(encode(photograph, "PNG", tmp_path))
    content[len(content) // 2] ^= 0x55
    path = tmp_path / "corrupt"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"damaged or incomplete PNG file .*read error"):
        read_image(path)


def test_the_reason_is_not_what_another_thread_does_at_the_same_time(tmp_path: Path) -> None:
    """libvips collects all threads' messages in one place, and pyvips' own look-ups of methods leave some there."""
    import pyvips

    (tmp_path / "empty.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    image, done = pyvips.Image.black(8, 8), threading.Event()

    def look_up() -> None:
        while not done.is_set():
            _ = image.pngsave_buffer

    thread = threading.Thread(target=look_up)
    thread.start()
    reasons = set()
    try:
        for _ in range(500):
            with pytest.raises(ImageError) as caught:
                read_image(tmp_path / "empty.png")
            reasons.add(str(caught.value).partition("(")[2].partition(")")[0])
    finally:
        done.set()
        thread.join()
    assert reasons == {"it gave no reason"}


def test_each_of_many_damaged_files_read_at_once_gets_its_own_reason(
    tmp_path: Path, photograph: NDArray[np.uint8]
) -> None:
    png = bytearray(encode(photograph, "PNG", tmp_path))
    png[len(png) // 2] ^= 0x55
    contents = {
        "VipsJpeg: premature end of JPEG image": encode(photograph, "JPEG", tmp_path)[:-40],
        "vipspng: libpng read error": bytes(png),
        "it gave no reason": b"\x89PNG\r\n\x1a\n",
    }
    paths = {}
    for number, (reason, content) in enumerate(contents.items()):
        paths[tmp_path / f"{number}"] = reason
        (tmp_path / f"{number}").write_bytes(content)
    (tmp_path / "text").write_bytes(b"no picture, which libvips says in the same place")

    def find_reason(path: Path) -> str:
        with pytest.raises(ImageError) as caught:
            read_image(path)
        return str(caught.value).partition("(")[2].partition(")")[0]

    jobs = [*paths, tmp_path / "text"] * 100
    with ThreadPoolExecutor(4) as pool:
        reasons = list(pool.map(find_reason, jobs))
    found = {(path.name, reason) for path, reason in zip(jobs, reasons, strict=True) if path in paths}
    assert found == {(path.name, reason) for path, reason in paths.items()}


def test_a_jpeg_with_a_hole_is_an_error(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    content = encode(photograph, "JPEG", tmp_path)
    path = tmp_path / "hole.jpg"
    path.write_bytes(content[: int(0.7 * len(content))] + content[-2:])  # its end marker is in place
    with pytest.raises(ImageError, match=r"JPEG file .*premature end of data segment"):
        read_image(path)
