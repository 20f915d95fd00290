"""Pictures read and written row by row: the same samples, and the same files, as whole ones."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from sr_deploy.errors import ImageError, InputError, OutputError
from sr_deploy.imaging.codec import bundled_photographs, read_image
from sr_deploy.imaging.decoded_image import DecodedImage, decode_image, write_decoded
from sr_deploy.imaging.row_reader import STRIP, RowReader
from sr_deploy.imaging.row_writer import open_row_writer

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
HEIGHT = STRIP + 70


@pytest.fixture(scope="module")
def photograph() -> NDArray[np.uint8]:
    return np.ascontiguousarray(read_image(bundled_photographs()["astronaut"])[:HEIGHT, :81])


def make_picture(photograph: NDArray[np.uint8], *, channels: int, deep: bool, alpha: bool) -> DecodedImage:
    noise = np.random.default_rng(0).integers(0, 256, photograph.shape)
    samples = (photograph.astype(np.uint16) * 256 + noise).astype(np.uint16) if deep else photograph
    exif = Image.Exif()
    exif[0x8298] = "the owner"
    return DecodedImage(
        np.ascontiguousarray(samples[..., :channels]),
        np.ascontiguousarray(samples[..., 1]) if alpha else None,
        icc=SRGB,
        exif=b"Exif\x00\x00" + exif.tobytes().removeprefix(b"Exif\x00\x00"),
        dpi=(300, 150),
    )


def read_rows(path: Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
    with RowReader(path) as reader:
        return np.concatenate(list(reader.strips()))


def join(picture: DecodedImage) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """All channels as they come in rows."""
    return picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(suffix, (deep, alpha)) for suffix in (".png", ".tif") for deep in (False, True) for alpha in (False, True)]
    + [(".jpg", (False, False)), (".jpg", (True, False))],
)
def test_files_are_those_of_whole_pictures(
    tmp_path: Path, photograph: NDArray[np.uint8], suffix: str, channels: int, kind: tuple[bool, bool]
) -> None:
    picture = make_picture(photograph, channels=channels, deep=kind[0], alpha=kind[1])
    write_decoded(tmp_path / f"whole{suffix}", picture)
    samples = join(picture)
    with open_row_writer(tmp_path / f"rows{suffix}", picture.header) as writer:
        for top, bottom in ((0, 1), (1, 100), (100, HEIGHT)):
            writer.write(samples[top:bottom])
    whole = tmp_path / f"whole{suffix}"
    assert (tmp_path / f"rows{suffix}").read_bytes() == whole.read_bytes()
    with RowReader(whole) as reader:
        assert reader.header == decode_image(whole).header
        strips = list(reader.strips())
    assert [len(strip) for strip in strips] == [STRIP, 70]
    assert strips[0].dtype == decode_image(whole).pixels.dtype
    assert np.array_equal(np.concatenate(strips), join(decode_image(whole)))


@pytest.mark.parametrize(
    "options", [{"compression": "raw"}, {"compression": "tiff_lzw"}, {"tile": True}, {"compression": "jpeg"}]
)
def test_tiffs_of_other_programs(tmp_path: Path, photograph: NDArray[np.uint8], options: dict[str, object]) -> None:
    import pyvips

    path = tmp_path / "in.tif"
    if "tile" in options:
        pyvips.Image.new_from_array(photograph).tiffsave(str(path), tile=True, tile_width=32, tile_height=64)
    else:
        Image.fromarray(photograph).save(path, **options)  # type: ignore[arg-type]
    assert np.array_equal(read_rows(path), decode_image(path).pixels)


def test_palettes_and_cmyk_are_converted_as_ever(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    Image.fromarray(photograph).quantize(16).save(tmp_path / "palette.png", transparency=3)
    import pyvips

    cmyk = pyvips.Image.new_from_array(photograph).copy(interpretation="srgb").icc_transform("cmyk", depth=8)
    cmyk.tiffsave(str(tmp_path / "cmyk.tif"))
    for name in ("palette.png", "cmyk.tif"):
        assert np.array_equal(read_rows(tmp_path / name), join(decode_image(tmp_path / name)))
    Image.fromarray(photograph).convert("CMYK").save(tmp_path / "plain.tif")
    with pytest.raises(ImageError, match=r"CMYK picture .* without a color profile"):
        RowReader(tmp_path / "plain.tif")


def save_interlaced(path: Path, photograph: NDArray[np.uint8]) -> None:
    import pyvips

    pyvips.Image.new_from_array(photograph).pngsave(str(path), interlace=True)


def save_turned(path: Path, photograph: NDArray[np.uint8]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photograph).save(path, exif=exif)


@pytest.mark.parametrize(
    ("name", "save", "message"),
    [
        (
            "a.png",
            save_interlaced,
            r"is interlaced \(progressive\), so that no row is whole before the file's end; lea",
        ),
        ("a.jpg", lambda path, it: Image.fromarray(it).save(path, progressive=True), r"is interlaced \(progressive\)"),
        ("b.jpg", save_turned, r"is turned or mirrored by its EXIF \(orientation 6\), which takes all of it at once"),
        ("a.webp", lambda path, it: Image.fromarray(it).save(path), "is a WebP file, and only PNG, JPEG, TIFF are"),
        ("a.bmp", lambda path, it: Image.fromarray(it).save(path), "is a BMP file, and only PNG, JPEG, TIFF are"),
        ("c.png", lambda path, it: path.write_bytes(b""), "is empty; give a PNG"),
        ("d.png", lambda path, it: path.write_text("no picture"), "is not a picture that can be read"),
        (
            "e.png",
            lambda path, it: Image.fromarray(it).save(path, save_all=True, append_images=[Image.fromarray(255 - it)]),
            r"is animated \(APNG\)",
        ),
        (
            "e.tif",
            lambda path, it: Image.fromarray(it).save(path, save_all=True, append_images=[Image.fromarray(it)]),
            r"has several pages \(2\)",
        ),
    ],
)
def test_what_is_not_read_by_rows_is_refused_by_name(
    tmp_path: Path, photograph: NDArray[np.uint8], name: str, save: Callable[[Path, object], None], message: str
) -> None:
    save(tmp_path / name, photograph)
    with pytest.raises(ImageError, match=message):
        RowReader(tmp_path / name)


def test_large_pictures_are_refused_before_they_are_decoded(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    write_decoded(tmp_path / "in.png", DecodedImage(photograph))
    with pytest.raises(ImageError, match=r"is 81x326, 0\.0 megapixels; at most 0\.02 are taken"):
        RowReader(tmp_path / "in.png", max_pixels=20_000)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_a_file_that_is_cut_short_fails_where_it_ends(
    tmp_path: Path, photograph: NDArray[np.uint8], suffix: str
) -> None:
    path = tmp_path / f"in{suffix}"
    Image.fromarray(photograph).save(path)
    content = path.read_bytes()
    # The directory of Pillow's TIFF stands first: its rows are what is cut.
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(ImageError, match=r"is a damaged or incomplete (PNG|TIFF|JPEG) file"):
        read_rows(path)


# --- writing


def test_what_is_not_written_by_rows_is_refused_by_name(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    plain, clear = DecodedImage(photograph).header, DecodedImage(photograph, photograph[..., 0]).header
    for name, header, quality, error, message in (
        ("a.webp", plain, None, ImageError, r"row by row: WebP is encoded whole; write \.png, \.jpg, \.tif"),
        ("a.bmp", plain, None, ImageError, r"unknown suffix '\.bmp'"),
        ("a.jpg", clear, None, ImageError, "JPEG does not hold"),
        ("a.png", plain, 50, InputError, "quality 50 means nothing"),
    ):
        with pytest.raises(error, match=message), open_row_writer(tmp_path / name, header, quality):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "rows", "told"),
    [
        ("out.tif", HEIGHT - 1, "the encoder failed"),
        ("out.tif", HEIGHT + 1, "given 327 of 326 rows"),
        ("out.png", HEIGHT - 1, "given 325 of 326 rows"),
        ("out.png", HEIGHT + 1, "given 327 of 326 rows"),
    ],
)
def test_another_number_of_rows_leaves_nothing(
    tmp_path: Path, photograph: NDArray[np.uint8], name: str, rows: int, told: str
) -> None:
    with (
        pytest.raises(OutputError, match=told),
        open_row_writer(tmp_path / name, DecodedImage(photograph).header) as writer,
    ):
        writer.write(np.repeat(photograph, 2, axis=0)[:rows])
    assert list(tmp_path.iterdir()) == []


def test_who_fails_between_rows_leaves_nothing_and_nobody_waiting(
    tmp_path: Path, photograph: NDArray[np.uint8]
) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        open_row_writer(tmp_path / "out.tif", DecodedImage(photograph).header) as writer,
    ):
        writer.write(photograph[:100])
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("encode")]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_a_file_that_cannot_grow_is_an_output_error(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 500, 3), np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with (
            pytest.raises(OutputError, match=rf"cannot write .*out\{suffix}: File too large"),
            open_row_writer(tmp_path / f"out{suffix}", DecodedImage(noise).header) as writer,
        ):
            for top in range(0, 400, 20):
                writer.write(noise[top : top + 20])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
