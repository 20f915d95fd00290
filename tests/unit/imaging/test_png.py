"""PNG files of our own making, read by somebody else's decoders."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms

from sr_deploy.imaging.codec import bundled_photographs, read_image
from sr_deploy.imaging.header import Header
from sr_deploy.imaging.png import make_png


def draw(height: int, width: int, channels: int, bits: int) -> np.ndarray:
    kind = np.uint8 if bits == 8 else np.uint16
    return np.random.default_rng(3).integers(0, 2**bits, (height, width, channels), kind)


def make(samples: np.ndarray, **said: object) -> bytes:
    height, width, bands = samples.shape
    bits = 8 * samples.dtype.itemsize
    header = Header(width, height, bands - (bands in (2, 4)), bits, bands in (2, 4), **said)
    return b"".join(make_png(header, bits, [samples[:5], samples[5:40], samples[40:]]))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 97), (64, 1), (67, 45)])
def test_every_kind_comes_back_as_it_was(bits, bands, size):
    samples = draw(*size, bands, bits)
    read = pyvips.Image.new_from_buffer(make(samples), "", fail_on="warning")
    assert (read.bands, read.format) == (bands, "uchar" if bits == 8 else "ushort")
    np.testing.assert_array_equal(read.numpy().reshape(samples.shape), samples)


def test_another_decoder_agrees():
    samples = draw(70, 33, 3, 8)
    with Image.open(io.BytesIO(make(samples))) as image:
        image.load()
        np.testing.assert_array_equal(np.asarray(image), samples)
        assert "dpi" not in image.info  # nothing is said where nobody knows


def test_profile_exif_and_resolution_are_in_the_file():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010F] = "maker"
    content = make(draw(8, 9, 3, 8), icc=profile, exif=exif.tobytes(), dpi=(300.0, 150.0))
    with Image.open(io.BytesIO(content)) as image:
        assert image.info["icc_profile"] == profile
        assert image.getexif()[0x010F] == "maker"
        assert image.info["dpi"] == pytest.approx((300, 150), rel=1e-3)


def test_a_profile_for_other_channels_is_left_out():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with Image.open(io.BytesIO(make(draw(8, 9, 1, 8), icc=profile))) as image:
        assert "icc_profile" not in image.info


def test_sixteen_bit_is_rounded_where_eight_are_written():
    samples = np.array([0, 128, 129, 65535], np.uint16).reshape(1, 4, 1)
    header = Header(4, 1, 1, 16, False)
    read = pyvips.Image.new_from_buffer(b"".join(make_png(header, 8, [samples])), "").numpy()
    assert read.ravel().tolist() == [0, 0, 1, 255]


def test_the_file_does_not_tell_how_its_rows_came_and_is_not_larger_than_libpngs():
    photograph = read_image(bundled_photographs()["chelsea"])
    height, width = photograph.shape[:2]
    header = Header(width, height, 3, 8, False)
    whole = b"".join(make_png(header, 8, [photograph]))
    assert whole == b"".join(make_png(header, 8, np.array_split(photograph, 7)))
    theirs = pyvips.Image.new_from_array(photograph).pngsave_buffer(compression=2, filter="avg")
    assert len(whole) < 1.15 * len(theirs)
    assert len(b"".join(make_png(header, 8, [photograph], packed=False))) > photograph.nbytes


def test_every_chunk_has_its_checksum():
    content = make(draw(50, 20, 3, 8))
    place, kinds = 8, []
    while place < len(content):
        length, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        body, checksum = content[place + 8 : place + 8 + length], content[place + 8 + length : place + 12 + length]
        assert int.from_bytes(checksum, "big") == zlib.crc32(kind + body)
        kinds.append(kind)
        place += 12 + length
    assert kinds[0] == b"IHDR"
    assert kinds[-2:] == [b"IDAT", b"IEND"]
