from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sr_deploy.errors import ImageError
from sr_deploy.imaging.codec import read_training_image
from sr_deploy.imaging.dimensions import HEAD_BYTES, parse_dimensions
from tests.fuzz.image_cases import make_case


def encode(mode: str, form: str, size=(37, 21), **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1", "LA"])
def test_plain_png_files(mode):
    assert parse_dimensions(encode(mode, "PNG")) == (37, 21)


def test_png_files_with_metadata_as_cameras_and_editors_write_it():
    exif = Image.Exif()
    exif[0x010F] = "camera"
    assert parse_dimensions(encode("RGB", "PNG", exif=exif, icc_profile=bytes(2000), dpi=(72, 72))) == (37, 21)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"Exif\0\0" + bytes(3000)}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_plain_jpeg_files(mode, options):
    assert parse_dimensions(encode(mode, "JPEG", **options)) == (37, 21)


def png_header(width: int, height: int, depth=8, color=2, *, checksum: int | None = None) -> bytes:
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + content + struct.pack(">I", checksum or zlib.crc32(content))


SAMPLES = b"\0\0\1\0IDAT"
TO_DECODER = {
    "text": b"hello",
    "empty": b"",
    "WebP": encode("RGB", "WEBP"),
    "CMYK": encode("CMYK", "JPEG"),
    "animated": png_header(9, 9) + b"\0\0\0\x08acTL" + bytes(12) + SAMPLES,
    "no samples": png_header(9, 9),
    "no palette": png_header(9, 9, color=3) + SAMPLES,
    "no such depth": png_header(9, 9, depth=4) + SAMPLES,
    "no such color": png_header(9, 9, color=5) + SAMPLES,
    "checksum": png_header(9, 9, checksum=1) + SAMPLES,
    "no pixels": png_header(0, 9) + SAMPLES,
    "34 megapixels": png_header(6800, 5000) + SAMPLES,
    "cut JPEG": encode("RGB", "JPEG")[:40],
}


@pytest.mark.parametrize("head", TO_DECODER.values(), ids=TO_DECODER.keys())
def test_whatever_is_unusual_is_left_to_a_decoder(head):
    assert parse_dimensions(head) is None
    assert parse_dimensions(png_header(6700, 5000) + SAMPLES) == (6700, 5000)


def test_damaged_files_get_no_answer_that_a_decoder_denies(tmp_path):
    answered = 0
    for seed in range(120):
        _, suffix, content = make_case(seed)
        found = parse_dimensions(content[: HEAD_BYTES[0]])
        path = tmp_path / f"{seed}.{suffix}"
        path.write_bytes(content)
        try:
            height, width, _ = read_training_image(path).shape
        except ImageError:
            continue
        if found is not None:
            answered += 1
            assert sorted(found) == sorted((width, height)), seed
    assert answered > 5
