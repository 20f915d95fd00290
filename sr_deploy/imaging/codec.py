"""Pictures as arrays alone: strict 8-bit reading, training pictures, folders; `picture` has all that a file says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sr_deploy.deps import is_installed, require
from sr_deploy.errors import ImageError, InputError, MissingDependencyError
from sr_deploy.imaging import pillow
from sr_deploy.imaging.decoded_image import DecodedImage, write_decoded
from sr_deploy.imaging.formats import PHOTOGRAPH_SUFFIXES, find_format
from sr_deploy.imaging.limits import require_image
from sr_deploy.imaging.opening import decode_upright, open_image, refuse_colors

# scikit-image's photographs in color that lie in its wheel; motorcycle_left and _right are a stereo pair.
_BUNDLED = ("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png",
            "motorcycle_right.png", "retina.jpg", "rocket.jpg")  # fmt: skip


def read_image(path: Path, channels: int = 3) -> NDArray[np.uint8]:
    """Decode one 8-bit picture as it is, turned upright by its EXIF orientation.

    Args:
        path: of any format in `FORMATS`, recognized by content, not by suffix.
        channels: 3 takes RGB pictures, 1 takes gray ones.

    Returns:
        H x W x channels.

    Raises:
        ImageError: no such file, a folder, damaged or cut short, or a kind that is not taken: gray where RGB is
            needed and the reverse, alpha, 16 bit, CMYK, animated. Nothing is converted silently.
    """
    image, form = open_image(path)
    refuse_colors(path, image)
    if image.format == "ushort":
        raise ImageError(
            f"{path} has 16 bits per channel; only 8-bit pictures are taken here: convert it to 8 bit first"
        )
    if image.hasalpha():
        palette = " in its palette" if image.get_typeof("palette") else ""
        raise ImageError(
            f"{path} ({form}) has an alpha channel{palette} (transparency), which is not taken here; "
            "remove it first: put the picture on a background"
        )
    if image.bands != channels:
        if image.bands == 1:
            raise ImageError(f"{path} is a gray picture, but the network takes RGB; convert it to 8-bit RGB first")
        raise ImageError(f"{path} is an RGB picture, but the network takes gray ones; convert it to 8-bit gray first")
    return decode_upright(path, image, form).astype(np.uint8, copy=False)


def read_training_image(path: Path) -> NDArray[np.uint8]:
    """Decode a picture to 8-bit RGB: gray is repeated, alpha dropped, 16 bit cut to its upper 8.

    pyvips decodes if it is installed, else Pillow does (which scikit-image brings; fewer formats), so that a machine
    that only trains needs no pyvips. `training_decoder` says which.

    Returns:
        H x W x 3, turned upright by its EXIF orientation.

    Raises:
        ImageError: no such file, a folder, damaged or cut short, CMYK, animated, floating point.
    """
    if training_decoder() == "pillow":
        return pillow.read_rgb(require_image(path))
    image, form = open_image(path)
    refuse_colors(path, image)
    samples = decode_upright(path, image, form)
    pixels = (samples >> 8 if samples.dtype == np.uint16 else samples).astype(np.uint8, copy=False)
    if pixels.shape[2] < 3:
        return np.ascontiguousarray(np.repeat(pixels[..., :1], 3, axis=2))
    return np.ascontiguousarray(pixels[..., :3])


def read_training_size(path: Path) -> tuple[int, int]:
    """Both sides of a picture in pixels, in any order: by its header, or decoded where Pillow does not know the format.

    Raises:
        ImageError: as `read_training_image`, where it is decoded.
    """
    height, width = pillow.read_size(path) or read_training_image(path).shape[:2]
    return height, width


def training_decoder() -> str:
    """`pyvips`, or `pillow` where pyvips is absent or does not load."""
    if not is_installed("pyvips"):
        return "pillow"
    try:
        require("pyvips", "decoding pictures")
    except MissingDependencyError:
        return "pillow"
    return "pyvips"


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Encode a picture by the suffix of `path`, with the default quality of its format.

    Args:
        path: takes the place of what was there, once complete.
        image: H x W x C, 8 bit, C = 1 or 3.

    Raises:
        ImageError: unknown suffix, or sides that the format cannot hold.
        OutputError: cannot be written; nothing is left behind.
    """
    find_format(path)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ImageError(f"cannot write {path}: a picture is H x W x 1 or 3 of 8 bit, not {image.shape} {image.dtype}")
    write_decoded(path, DecodedImage(image))


def list_images(folder: Path, suffixes: frozenset[str] = PHOTOGRAPH_SUFFIXES) -> list[Path]:
    """All pictures in a folder and below, sorted by path; hidden and partial files and folders left out.

    Args:
        folder: searched with all folders in it.
        suffixes: endings of names that are taken, in lower case.

    Raises:
        InputError: no such folder, or a file.
    """
    if not folder.exists():
        raise InputError(f"{folder} does not exist; give a folder of pictures")
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder of pictures")
    found = []
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in suffixes and not hidden and path.is_file():
            found.append(path)
    return sorted(found)


def bundled_photographs() -> dict[str, Path]:
    """scikit-image's photographs in color, by name without suffix; they lie in its package, nothing is downloaded.

    Raises:
        MissingDependencyError: scikit-image is absent.
    """
    skimage = require("skimage", "the bundled photographs")
    folder = Path(str(skimage.__file__)).parent / "data"
    return {Path(name).stem: folder / name for name in _BUNDLED if (folder / name).is_file()}
