from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sr_deploy.errors import ImageError, InputError
from sr_deploy.imaging import codec
from sr_deploy.imaging.codec import (
    bundled_photographs,
    list_images,
    read_image,
    read_training_image,
    training_decoder,
    write_image,
)
from sr_deploy.imaging.pillow import read_rgb

Save = Callable[[Image.Image, Path], None]


def saved(folder: Path, name: str, picture: Image.Image, **options: object) -> Path:
    picture.save(folder / name, **options)  # type: ignore[arg-type]
    return folder / name


# --- reading what is taken


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.tif", {"compression": "tiff_lzw"}),
        ("a.webp", {"lossless": True}),
        ("[page=3,n=2].png", {}),  # no options: a name
        ("a.png.jpg", {"format": "PNG"}),  # content counts, not the suffix
    ],
)
def test_reads_lossless_files_exactly(
    tmp_path: Path, photograph: NDArray[np.uint8], name: str, options: dict[str, object]
) -> None:
    path = saved(tmp_path, name, Image.fromarray(photograph), **options)
    assert np.array_equal(read_image(path), photograph)
    assert np.array_equal(read_training_image(path), photograph)


@pytest.mark.parametrize("options", [{"format": "JPEG"}, {"format": "JPEG", "progressive": True}, {"format": "WEBP"}])
def test_reads_lossy_files_as_pillow_does(
    tmp_path: Path, photograph: NDArray[np.uint8], options: dict[str, object]
) -> None:
    path = saved(tmp_path, "a.x", Image.fromarray(photograph), **options)
    pillow = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(read_image(path) - pillow).mean() < 0.5


def test_a_palette_without_transparency_is_rgb(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    palette = Image.fromarray(photograph).convert("P")
    assert np.array_equal(read_image(saved(tmp_path, "p.png", palette)), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda image: image),
        (2, lambda image: image[:, ::-1]),
        (3, lambda image: image[::-1, ::-1]),
        (4, lambda image: image[::-1]),
        (5, lambda image: image.transpose(1, 0, 2)),
        (6, lambda image: np.rot90(image, -1)),
        (7, lambda image: image[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90),
    ],
)
def test_orientation_is_applied_once(
    tmp_path: Path,
    photograph: NDArray[np.uint8],
    orientation: int,
    turn: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, "turned.png", Image.fromarray(photograph), exif=exif)
    expected = turn(photograph)
    assert np.array_equal(read_image(path), expected)
    assert np.array_equal(read_rgb(path), expected)
    write_image(tmp_path / "again.png", read_image(path))
    assert np.array_equal(read_image(tmp_path / "again.png"), expected)


def test_gray_is_for_gray_networks(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    path = saved(tmp_path, "gray.png", Image.fromarray(photograph[..., 0]))
    assert np.array_equal(read_image(path, channels=1), photograph[..., :1])
    with pytest.raises(ImageError, match="is a gray picture, but the network takes RGB; convert it"):
        read_image(path)
    color = saved(tmp_path, "rgb.png", Image.fromarray(photograph))
    with pytest.raises(ImageError, match="is an RGB picture, but the network takes gray ones"):
        read_image(color, channels=1)


def test_bmp_is_read_exactly(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    Image.fromarray(photograph).save(tmp_path / "a.bmp")
    assert np.array_equal(read_image(tmp_path / "a.bmp"), photograph)
    assert np.array_equal(read_training_image(tmp_path / "a.bmp"), photograph)
    Image.fromarray(photograph[..., 0]).save(tmp_path / "gray.bmp")
    assert np.array_equal(read_image(tmp_path / "gray.bmp", channels=1), photograph[..., :1])
    content = (tmp_path / "a.bmp").read_bytes()
    (tmp_path / "cut.bmp").write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match=r"cut\.bmp is a damaged or incomplete BMP picture"):
        read_image(tmp_path / "cut.bmp")


def test_a_replaced_file_is_read_anew(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    path = tmp_path / "a.png"
    write_image(path, photograph)
    assert np.array_equal(read_image(path), photograph)
    write_image(path, 255 - photograph)
    assert np.array_equal(read_image(path), 255 - photograph)


# --- refusing the rest by name


def make_kind(kind: str, path: Path, photograph: NDArray[np.uint8]) -> Path:
    picture = Image.fromarray(photograph)
    sixteen = photograph[..., 0].astype(np.uint16) * 257
    makers: dict[str, Callable[[], object]] = {
        "alpha": lambda: picture.convert("RGBA").save(path, "PNG"),
        "gray alpha": lambda: picture.convert("LA").save(path, "PNG"),
        "palette alpha": lambda: picture.convert("P").save(path, "PNG", transparency=3),
        "16 bit": lambda: Image.fromarray(sixteen).save(path, "PNG"),
        "CMYK": lambda: picture.convert("CMYK").save(path, "JPEG"),
        "float": lambda: Image.fromarray(photograph[..., 0].astype(np.float32)).save(path, "TIFF"),
        "GIF": lambda: picture.save(path, "GIF", save_all=True, append_images=[picture.rotate(9)]),
        "WebP": lambda: picture.save(path, "WEBP", save_all=True, append_images=[picture.rotate(9)]),
        "TIFF": lambda: picture.save(path, "TIFF", save_all=True, append_images=[picture.rotate(9)]),
        "APNG": lambda: picture.save(path, "PNG", save_all=True, append_images=[picture.rotate(9)]),
        "text": lambda: path.write_text("no picture\n" * 50),
        "SVG": lambda: path.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>'),
        "empty": lambda: path.write_bytes(b""),
        "folder": path.mkdir,
        "missing": lambda: None,
    }
    makers[kind]()
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("alpha", r"has an alpha channel \(transparency\), which is not taken here; remove it first"),
        ("gray alpha", r"has an alpha channel \(transparency\)"),
        ("palette alpha", r"has an alpha channel in its palette \(transparency\)"),
        ("16 bit", "has 16 bits per channel; only 8-bit pictures are taken here"),
        ("CMYK", "is a CMYK picture .*; convert it to RGB first"),
        ("float", "holds samples of type float, 1 per pixel, b-w; convert it to 8-bit RGB first"),
        ("GIF", r"is animated or has several pages \(2\); give a file with one picture"),
        ("WebP", r"is animated or has several pages \(2\)"),
        ("TIFF", r"is animated or has several pages \(2\)"),
        ("APNG", r"is animated \(APNG\); give a file with one picture"),
        ("text", "is not a picture that can be read; give a PNG, JPEG, WebP"),
        ("SVG", "is not a picture that can be read"),
        ("empty", "is empty; give a PNG, JPEG"),
        ("folder", "is a folder, but a picture must be a file"),
        ("missing", "does not exist; give a picture"),
    ],
)
def test_refuses_by_name(tmp_path: Path, photograph: NDArray[np.uint8], kind: str, message: str) -> None:
    path = make_kind(kind, tmp_path / "given.xyz", photograph)
    with pytest.raises(ImageError, match=message) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# --- training pictures


@pytest.mark.parametrize("read", [read_training_image, read_rgb])
def test_training_pictures_become_rgb(
    tmp_path: Path, photograph: NDArray[np.uint8], read: Callable[[Path], NDArray[np.uint8]]
) -> None:
    gray = np.repeat(photograph[..., :1], 3, axis=2)
    assert np.array_equal(read(saved(tmp_path, "g.png", Image.fromarray(photograph[..., 0]))), gray)
    sixteen = photograph[..., 0].astype(np.uint16) * 256 + 255
    assert np.array_equal(read(saved(tmp_path, "s.png", Image.fromarray(sixteen))), gray)
    alpha = Image.fromarray(photograph)
    alpha.putalpha(Image.fromarray(photograph[..., 1]))
    assert np.array_equal(read(saved(tmp_path, "a.png", alpha)), photograph)


@pytest.mark.parametrize("read", [read_training_image, read_rgb])
@pytest.mark.parametrize("kind", ["CMYK", "float", "GIF", "APNG", "text", "empty", "folder", "missing"])
def test_training_refuses_the_rest(
    tmp_path: Path, photograph: NDArray[np.uint8], read: Callable[[Path], NDArray[np.uint8]], kind: str
) -> None:
    with pytest.raises(ImageError, match="given"):
        read(make_kind(kind, tmp_path / "given", photograph))


def test_pyvips_decodes_where_it_is_installed() -> None:
    assert training_decoder() == "pyvips"


def test_training_pictures_need_no_pyvips(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    path = saved(tmp_path, "a.png", Image.fromarray(photograph))
    # A name that cannot be imported stands for an absent package, in a process of its own.
    program = (
        "import sys; from importlib.machinery import PathFinder\n"
        "class Hide:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name.startswith('pyvips'): raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide)\n"
        "import importlib.util; real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: None if name == 'pyvips' else real(name, package)\n"
        "from pathlib import Path; from sr_deploy.imaging import codec; from sr_deploy.errors import SrDeployError\n"
        f"path = Path({str(path)!r})\n"
        "print(codec.training_decoder(), codec.read_training_image(path).sum())\n"
        "try: codec.read_image(path)\n"
        "except SrDeployError as error: print(error)\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    first, second = answer.stdout.splitlines()
    assert first == f"pillow {photograph.sum()}"
    assert second.endswith("needs pyvips, which is not installed; run: pip install 'pyvips[binary]'")


# --- folders


def test_lists_pictures_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "sub/c.webp", ".hidden.png", ".partial-x.png", ".git/d.png", "note.txt", "e.svg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    assert [str(path.relative_to(tmp_path)) for path in list_images(tmp_path)] == ["a.JPG", "b.png", "sub/c.webp"]
    assert list_images(tmp_path / ".git") == [tmp_path / ".git" / "d.png"]  # asked for by name


def test_a_folder_is_needed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; give a folder of pictures"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file; give a folder of pictures"):
        list_images(tmp_path / "file")


def test_bundled_photographs_are_rgb() -> None:
    sizes = {name: read_image(path).shape for name, path in bundled_photographs().items()}
    assert sizes == {
        "astronaut": (512, 512, 3),
        "chelsea": (300, 451, 3),
        "coffee": (400, 600, 3),
        "hubble_deep_field": (872, 1000, 3),
        "ihc": (512, 512, 3),
        "motorcycle_left": (500, 741, 3),
        "motorcycle_right": (500, 741, 3),
        "retina": (1411, 1411, 3),
        "rocket": (427, 640, 3),
    }


@pytest.mark.skipif(
    "SR_DEPLOY_DATA" not in os.environ, reason="SR_DEPLOY_DATA does not name the folder with photographs"
)
def test_real_photographs() -> None:
    folder = Path(os.environ["SR_DEPLOY_DATA"]) / "real"
    assert read_image(folder / "0014.jpg").shape == (179, 179, 3)
    assert read_image(folder / "wolf_gray.jpg", channels=1).shape == (236, 236, 1)
    with pytest.raises(ImageError, match="has 16 bits per channel"):
        read_image(folder / "tree_alpha_16bit.png")
    with pytest.raises(ImageError, match="alpha channel"):
        read_image(folder / "children-alpha.png")
    for path in list_images(folder):
        assert np.abs(codec.read_training_image(path).astype(int) - read_rgb(path)).mean() < 0.5
