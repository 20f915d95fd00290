from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from sr_deploy.errors import ImageError, InputError
from sr_deploy.imaging.codec import bundled_photographs, read_image
from sr_deploy.imaging.decoded_image import DecodedImage, decode_image, write_decoded
from sr_deploy.imaging.encoding import round_to_8bit
from sr_deploy.imaging.formats import find_losses

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SUFFIXES = (".png", ".jpg", ".webp", ".tif", ".avif")
OPTIONS: dict[str, dict[str, object]] = {
    ".jpg": {"quality": 95},
    ".webp": {"lossless": True},
    ".avif": {"quality": 95},
}
LOSSLESS = (".png", ".tif")


@pytest.fixture(scope="module")
def photograph() -> NDArray[np.uint8]:
    return read_image(bundled_photographs()["astronaut"])[:60, :81]


@pytest.fixture(scope="module")
def sixteen(photograph: NDArray[np.uint8]) -> NDArray[np.uint16]:
    noise = np.random.default_rng(0).integers(0, 257, photograph.shape)
    return (photograph.astype(np.int64) * 256 + noise.clip(0, 255)).astype(np.uint16)


def make_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x8298] = "the owner"
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    return exif


# --- metadata


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_profile_exif_and_resolution_are_kept_and_the_picture_is_turned_once(
    tmp_path: Path, photograph: NDArray[np.uint8], suffix: str
) -> None:
    path = tmp_path / "lying.jpg"
    Image.fromarray(photograph).save(path, quality=98, exif=make_exif(6), icc_profile=SRGB, dpi=(300, 150))
    picture = decode_image(path)
    assert picture.pixels.shape == (81, 60, 3)
    assert (picture.icc, picture.alpha) == (SRGB, None)
    assert picture.dpi == pytest.approx((150, 300))  # 300 across lay down
    target = tmp_path / f"upright{suffix}"
    losses = write_decoded(target, picture)
    again = decode_image(target)
    assert np.abs(again.pixels.astype(int) - np.rot90(photograph, -1)).mean() < 4
    assert again.icc == SRGB
    assert again.dpi == pytest.approx((150, 300), rel=1e-4)
    with Image.open(target) as written:
        exif = written.getexif()
        assert exif.get(0x0112, 1) == 1
        if suffix == ".tif":
            assert losses == ("TIFF files are written without EXIF",)
        else:
            assert losses == ()
            assert exif[0x8298] == "the owner"
            assert exif.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif"])
def test_a_resolution_without_exif_is_kept(tmp_path: Path, photograph: NDArray[np.uint8], suffix: str) -> None:
    write_decoded(tmp_path / f"a{suffix}", DecodedImage(photograph, dpi=(240.0, 120.0)))
    assert decode_image(tmp_path / f"a{suffix}").dpi == pytest.approx((240, 120))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_is_invented(tmp_path: Path, photograph: NDArray[np.uint8], suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_decoded(path, DecodedImage(photograph))
    with Image.open(path) as written:
        assert "icc_profile" not in written.info
        if suffix != ".tif":  # whose tags Pillow shows as EXIF
            assert dict(written.getexif()) == {}
        if "dpi" in written.info:
            assert written.info["dpi"] == pytest.approx((72, 72), rel=1e-3)  # what viewers take for unsaid


def test_a_profile_for_other_channels_is_left_out_and_said(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    picture = DecodedImage(photograph[..., :1], icc=SRGB)
    assert write_decoded(tmp_path / "a.png", picture) == (
        "the color profile is for another kind of picture and was left out",
    )
    assert decode_image(tmp_path / "a.png").icc is None


# --- depth, gray, transparency


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("kind", [(1, False), (1, True), (3, False), (3, True)])
@pytest.mark.parametrize("depth", [8, 16])
def test_samples_survive_without_loss(
    tmp_path: Path, sixteen: NDArray[np.uint16], suffix: str, kind: tuple[int, bool], depth: int
) -> None:
    channels, with_alpha = kind
    source = sixteen if depth == 16 else (sixteen >> 8).astype(np.uint8)
    alpha = np.ascontiguousarray(source[..., 1]) if with_alpha else None
    picture = DecodedImage(np.ascontiguousarray(source[..., :channels]), alpha)
    assert write_decoded(tmp_path / f"a{suffix}", picture) == ()
    again = decode_image(tmp_path / f"a{suffix}")
    assert again.pixels.dtype == source.dtype
    assert np.array_equal(again.pixels, picture.pixels)
    assert (again.alpha is None) == (alpha is None)
    assert alpha is None or np.array_equal(again.alpha, alpha)


def test_depth_is_the_files_not_the_values(tmp_path: Path) -> None:
    dark = np.full((9, 9, 3), 200, np.uint16)  # would pass for 8 bit by its values
    write_decoded(tmp_path / "dark.png", DecodedImage(dark))
    again = decode_image(tmp_path / "dark.png")
    assert again.pixels.dtype == np.uint16
    assert np.array_equal(again.pixels, dark)


@pytest.mark.parametrize(("suffix", "bits", "error"), [(".jpg", 8, 700), (".webp", 8, 900), (".avif", 12, 700)])
def test_16_bits_are_rounded_by_name(
    tmp_path: Path, sixteen: NDArray[np.uint16], suffix: str, bits: int, error: int
) -> None:
    losses = write_decoded(tmp_path / f"a{suffix}", DecodedImage(sixteen))
    assert any(f"holds {bits} bits per channel: 16 bits were rounded" in loss for loss in losses)
    again = decode_image(tmp_path / f"a{suffix}").pixels.astype(float)
    again *= 257 if suffix != ".avif" else 1
    assert np.abs(again - sixteen).mean() < error


def test_rounding_to_8_bit_keeps_both_ends() -> None:
    every = np.arange(65536).astype(np.uint16).reshape(256, 256, 1)
    assert np.array_equal(round_to_8bit(every), np.rint(every / 257).astype(np.uint8))


@pytest.mark.parametrize("suffix", [".webp", ".avif"])
def test_transparency_in_lossy_formats(tmp_path: Path, photograph: NDArray[np.uint8], suffix: str) -> None:
    alpha = np.zeros(photograph.shape[:2], np.uint8)
    alpha[20:, 30:] = 255
    assert write_decoded(tmp_path / f"a{suffix}", DecodedImage(photograph, alpha)) == ()
    again = decode_image(tmp_path / f"a{suffix}")
    assert again.alpha is not None
    assert np.abs(again.alpha.astype(int) - alpha).mean() < 1
    assert np.abs(again.pixels.astype(int) - photograph)[20:, 30:].mean() < 5


def test_jpeg_holds_no_transparency(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    picture = DecodedImage(photograph, np.ascontiguousarray(photograph[..., 0]))
    for attempt in (write_decoded, lambda path, it: find_losses(it.header, path)):
        with pytest.raises(ImageError, match=r"alpha channel .* JPEG .*; write \.png, \.webp, \.tif"):
            attempt(tmp_path / "a.jpg", picture)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".webp", ".avif"])
def test_gray_becomes_three_equal_channels_by_name(tmp_path: Path, photograph: NDArray[np.uint8], suffix: str) -> None:
    losses = write_decoded(tmp_path / f"a{suffix}", DecodedImage(photograph[..., :1]))
    assert "holds no single channel: gray became three equal ones" in losses[0]
    again = decode_image(tmp_path / f"a{suffix}").pixels.astype(int)
    assert again.shape[2] == 3
    assert np.abs(again - photograph[..., :1]).mean() < 3


def test_palettes_become_rgb_with_their_transparency(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    palette = Image.fromarray(photograph).convert("P")
    palette.save(tmp_path / "p.png")
    assert np.array_equal(decode_image(tmp_path / "p.png").pixels, np.asarray(palette.convert("RGB")))
    clear = int(np.asarray(palette)[5, 5])
    palette.save(tmp_path / "t.png", transparency=clear)
    picture = decode_image(tmp_path / "t.png")
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha == 0, np.asarray(palette) == clear)
    palette.save(tmp_path / "g.gif")
    assert np.array_equal(decode_image(tmp_path / "g.gif").pixels, np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_gray_pictures_one_pixel_wide_or_high_keep_their_sides(
    tmp_path: Path, dtype: type, shape: tuple[int, int]
) -> None:
    pixels = np.full((*shape, 1), 200, dtype)
    write_decoded(tmp_path / "thin.png", DecodedImage(pixels))
    found = decode_image(tmp_path / "thin.png").pixels
    assert found.dtype == dtype
    assert np.array_equal(found, pixels)


@pytest.mark.parametrize("bits", ["1", "L"])
def test_gray_stays_one_channel(tmp_path: Path, photograph: NDArray[np.uint8], bits: str) -> None:
    gray = Image.fromarray(photograph).convert(bits)
    gray.save(tmp_path / "g.png")
    assert np.array_equal(decode_image(tmp_path / "g.png").pixels[..., 0], np.asarray(gray.convert("L")))


# --- CMYK, limits, quality


def test_cmyk_is_converted_by_its_own_profile_or_refused(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    import pyvips

    inks = Image.fromarray(photograph).convert("CMYK")
    inks.save(tmp_path / "bare.jpg", quality=98)
    with pytest.raises(ImageError, match=r"CMYK picture .* without a color profile"):
        decode_image(tmp_path / "bare.jpg")
    profile = bytes(pyvips.Image.profile_load("cmyk"))
    inks.save(tmp_path / "known.tif", icc_profile=profile)
    picture = decode_image(tmp_path / "known.tif")
    assert picture.pixels.shape == photograph.shape
    assert picture.icc is not None
    assert picture.icc[16:20] == b"RGB "
    expected = ImageCms.profileToProfile(
        inks, ImageCms.ImageCmsProfile(__import__("io").BytesIO(profile)), ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB",
    )  # fmt: skip
    assert np.abs(picture.pixels.astype(int) - np.asarray(expected)).mean() < 3


def save_animated(path: Path, photograph: NDArray[np.uint8]) -> None:
    first = Image.fromarray(photograph)
    first.save(path, save_all=True, append_images=[first.rotate(9)])


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_animated_files_are_refused_by_name(tmp_path: Path, photograph: NDArray[np.uint8], suffix: str) -> None:
    save_animated(tmp_path / f"a{suffix}", photograph)
    with pytest.raises(ImageError, match="is animated"):
        decode_image(tmp_path / f"a{suffix}")


def make_bomb(path: Path, side: int) -> None:
    """A PNG of some kilobytes that decodes to gigabytes."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 10**6))
        + chunk(b"IEND", b"")
    )


def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    make_bomb(tmp_path / "bomb.png", 60000)
    with pytest.raises(ImageError, match=r"60000x60000, 3600\.0 .* at most 200 .*--max-megapixels"):
        decode_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg"])
def test_the_limit_is_exact(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(path)
    assert decode_image(path, max_pixels=1200).pixels.shape == (30, 40, 3)
    with pytest.raises(ImageError, match=r"is 40x30, 0\.0 megapixels; at most 0\.001199 are taken"):
        decode_image(path, max_pixels=1199)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif"])
def test_quality_weighs_size_against_error(tmp_path: Path, photograph: NDArray[np.uint8], suffix: str) -> None:
    sizes, errors = [], []
    for quality in (30, 60, 100):
        path = tmp_path / f"{quality}{suffix}"
        write_decoded(path, DecodedImage(photograph), quality)
        sizes.append(path.stat().st_size)
        errors.append(np.abs(decode_image(path).pixels.astype(int) - photograph).mean())
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)


def test_quality_that_means_nothing_is_refused(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    with pytest.raises(InputError, match=r"PNG files lose nothing, so quality 80 "):
        write_decoded(tmp_path / "a.png", DecodedImage(photograph), 80)
    for quality in (0, 101):
        with pytest.raises(InputError, match=f"quality goes from 1 to 100, not {quality}"):
            write_decoded(tmp_path / "a.jpg", DecodedImage(photograph), quality)


@pytest.mark.parametrize(
    "make",
    [
        lambda it: DecodedImage(it[..., :2]),
        lambda it: DecodedImage(it.astype(np.float32)),
        lambda it: DecodedImage(it, it[:5, :, 0]),
        lambda it: DecodedImage(it, it[..., 0].astype(np.uint16)),
    ],
)
def test_what_is_no_picture_is_not_written(
    tmp_path: Path, photograph: NDArray[np.uint8], make: Callable[[NDArray[np.uint8]], DecodedImage]
) -> None:
    with pytest.raises(ImageError, match=r"a picture is H x W x 1 or 3|alpha is"):
        write_decoded(tmp_path / "a.png", make(photograph))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    "SR_DEPLOY_DATA" not in os.environ, reason="SR_DEPLOY_DATA does not name the folder with photographs"
)
@pytest.mark.parametrize(
    ("name", "shape", "kind", "profile"),
    [
        ("00017_gray.png", (351, 500, 1), (np.uint8, False), None),
        ("wolf_gray.jpg", (236, 236, 1), (np.uint8, False), b"GRAY"),
        ("children-alpha.png", (350, 566, 3), (np.uint8, True), None),
        ("tree_alpha_16bit.png", (256, 342, 3), (np.uint16, True), b"RGB "),
        ("0014.jpg", (179, 179, 3), (np.uint8, False), None),
    ],
)
def test_real_photographs(
    tmp_path: Path, name: str, shape: tuple[int, int, int], kind: tuple[type, bool], profile: bytes | None
) -> None:
    depth, has_alpha = kind
    picture = decode_image(Path(os.environ["SR_DEPLOY_DATA"]) / "real" / name)
    assert (picture.pixels.shape, picture.pixels.dtype) == (shape, depth)
    assert (picture.alpha is not None, picture.icc and picture.icc[16:20]) == (has_alpha, profile)
    assert write_decoded(tmp_path / "again.png", picture) == ()
    again = decode_image(tmp_path / "again.png")
    assert np.array_equal(again.pixels, picture.pixels)
    assert again.icc == picture.icc
    assert picture.alpha is None or np.array_equal(again.alpha, picture.alpha)
    if not has_alpha:
        write_decoded(tmp_path / "again.webp", picture)  # a profile for gray becomes one for RGB there
        webp = decode_image(tmp_path / "again.webp")
        assert webp.pixels.shape[2] == 3
        assert webp.icc is None if profile is None else webp.icc[16:20] == b"RGB "
        if profile is None:
            assert np.abs(webp.pixels.astype(int) - picture.pixels).mean() < 4
