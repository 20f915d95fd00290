"""Pictures in files: decoded strictly, written whole or not at all.

pyvips decodes and encodes. Files are handed to it as bytes: its own opening of paths reads options out of names such
as `photo[1].png` and remembers what a path held before.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sr_deploy.deps import is_installed, require
from sr_deploy.errors import ImageError, InputError, MissingDependencyError, OutputError
from sr_deploy.files import replacing_file, require_file
from sr_deploy.imaging import pillow

if TYPE_CHECKING:
    import pyvips

# libvips reads far more (SVG, PDF, matrices); only these are taken. Start of the loader's name -> name for people.
_LOADERS = {"Jpeg": "JPEG", "Png": "PNG", "Webp": "WebP", "Tiff": "TIFF", "Heif": "AVIF or HEIF", "Nsgif": "GIF"}
_SAVERS = {".png": ".png[compression=6]", ".jpg": ".jpg[Q=95]", ".jpeg": ".jpg[Q=95]", ".webp": ".webp[Q=95]",
           ".tif": ".tif[compression=deflate,predictor=horizontal]",
           ".tiff": ".tif[compression=deflate,predictor=horizontal]"}  # fmt: skip
_MAX_SIDE = {".jpg": 65535, ".jpeg": 65535, ".webp": 16383}
_TRAINING_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".avif", ".heic"})
# scikit-image's photographs in colour that lie in its wheel; motorcycle_left and _right are a stereo pair.
_BUNDLED = ("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png",
            "motorcycle_right.png", "retina.jpg", "rocket.jpg")  # fmt: skip


def output_suffixes() -> tuple[str, ...]:
    """Suffixes that `write_image` knows."""
    return tuple(_SAVERS)


def read_image(path: Path, channels: int = 3) -> NDArray[np.uint8]:
    """Decode one 8-bit picture as it is, turned upright by its EXIF orientation.

    Args:
        path: JPEG, PNG, WebP, TIFF, BMP, AVIF or a GIF with one frame; recognised by content, not by suffix.
        channels: 3 takes RGB pictures, 1 takes gray ones.

    Returns:
        H x W x channels.

    Raises:
        ImageError: no such file, a folder, damaged or cut short, or a kind that is not taken: gray where RGB is
            needed and the reverse, alpha, 16 bit, CMYK, animated. Nothing is converted silently.
    """
    image, form = _open(path)
    _refuse_kind(path, image, form)
    if image.bands != channels:
        if image.bands == 1:
            raise ImageError(f"{path} is a gray picture, but the network takes RGB; convert it to 8-bit RGB first")
        raise ImageError(f"{path} is an RGB picture, but the network takes gray ones; convert it to 8-bit gray first")
    return _decode(path, image, form)


def read_training_image(path: Path) -> NDArray[np.uint8]:
    """Decode a picture to 8-bit RGB: gray is repeated, alpha dropped, 16 bit cut to its upper 8.

    pyvips decodes if it is installed, else Pillow does (which scikit-image brings; JPEG, PNG, WebP, TIFF and BMP only),
    so that a machine that only trains needs no pyvips. `training_decoder` says which.

    Returns:
        H x W x 3, turned upright by its EXIF orientation.

    Raises:
        ImageError: no such file, a folder, damaged or cut short, CMYK, animated, floating point.
    """
    if training_decoder() == "pillow":
        return pillow.read_rgb(require_picture(path))
    image, form = _open(path)
    _refuse_form(path, image)
    pixels = _decode(path, image, form)
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.shape[2] < 3:
        return np.ascontiguousarray(np.repeat(pixels[..., :1], 3, axis=2))
    return np.ascontiguousarray(pixels[..., :3])


def training_decoder() -> str:
    """`pyvips`, or `pillow` where pyvips is absent or does not load."""
    if not is_installed("pyvips"):
        return "pillow"
    try:
        require("pyvips", "decoding pictures")
    except MissingDependencyError:
        return "pillow"
    return "pyvips"


def require_output_suffix(path: Path) -> None:
    """Check, before any work is done, that `write_image` knows what to write.

    Raises:
        ImageError: unknown suffix; the message lists those known.
    """
    if path.suffix.lower() not in _SAVERS:
        raise ImageError(
            f"cannot write {path}: unknown suffix {path.suffix!r}; name the output with one of "
            f"{', '.join(output_suffixes())}"
        )


def require_output_size(path: Path, width: int, height: int) -> None:
    """Check, before any work is done, that the format of `path` holds a picture of that size.

    Raises:
        ImageError: a side is too long for it.
    """
    most = _MAX_SIDE.get(path.suffix.lower())
    if most is not None and max(width, height) > most:
        raise ImageError(
            f"cannot write {path}: {path.suffix} holds sides up to {most}, not {width}x{height}; write .png or .tif"
        )


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Encode a picture by the suffix of `path`: PNG and TIFF without loss, JPEG and WebP with quality 95.

    Args:
        path: takes the place of what was there, once complete.
        image: H x W x C, 8 bit, C = 1 or 3.

    Raises:
        ImageError: unknown suffix, or sides that the format cannot hold.
        OutputError: cannot be written; nothing is left behind.
    """
    require_output_suffix(path)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ImageError(f"cannot write {path}: a picture is H x W x 1 or 3 of 8 bit, not {image.shape} {image.dtype}")
    pyvips = require("pyvips", "writing pictures")
    require_output_size(path, width=image.shape[1], height=image.shape[0])
    picture = _wrap_pixels(image)
    try:
        encoded: bytes = picture.write_to_buffer(_SAVERS[path.suffix.lower()])
    except pyvips.Error as error:
        raise OutputError(f"cannot write {path}: the encoder failed: {_describe_failure(error)}") from error
    with replacing_file(path) as temporary:
        temporary.write_bytes(encoded)


def list_images(folder: Path) -> list[Path]:
    """All pictures in a folder and below, sorted by path; hidden and partial files and folders left out.

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
        if path.suffix.lower() in _TRAINING_SUFFIXES and not hidden and path.is_file():
            found.append(path)
    return sorted(found)


def bundled_photographs() -> dict[str, Path]:
    """scikit-image's photographs in colour, by name without suffix; they lie in its package, nothing is downloaded.

    Raises:
        MissingDependencyError: scikit-image is absent.
    """
    skimage = require("skimage", "the bundled photographs")
    folder = Path(str(skimage.__file__)).parent / "data"
    return {Path(name).stem: folder / name for name in _BUNDLED if (folder / name).is_file()}


def require_picture(path: Path) -> Path:
    """Check that there is a file, before anything is loaded for it.

    Raises:
        ImageError: there is nothing, or a folder, or the file cannot be read.
    """
    try:
        return require_file(path, "a picture")
    except InputError as error:
        raise ImageError(str(error)) from error


def _open(path: Path) -> tuple[pyvips.Image, str]:
    """Read the header. Returns the picture (not decoded yet) and the name of its format."""
    content = _read_bytes(path)
    pyvips = require("pyvips", "reading pictures")
    if content.startswith(b"BM"):
        return _wrap_pixels(pillow.read_bmp(path, content)), "BMP"
    loader = pyvips.vips_lib.vips_foreign_find_load_buffer(content, len(content)) if content else None
    text = "" if not loader else pyvips.ffi.string(loader).decode()
    form = next((name for prefix, name in _LOADERS.items() if text.startswith(f"VipsForeignLoad{prefix}")), None)
    if form is None:
        what = "is empty" if not content else "is no picture that can be read"
        raise ImageError(f"{path} {what}; give a {', '.join(_LOADERS.values())} or BMP file")
    if form == "PNG" and b"acTL" in content[: content.find(b"IDAT")]:
        raise ImageError(f"{path} is animated (APNG); give a file with one picture")
    strictness = "warning" if form == "JPEG" else "error"  # a damaged JPEG is but a warning to libjpeg
    try:
        return pyvips.Image.new_from_buffer(content, "", fail_on=strictness), form
    except pyvips.Error as error:
        raise _damaged(path, form, error) from error


def _wrap_pixels(image: NDArray[np.uint8]) -> pyvips.Image:
    """A picture of pyvips on pixels of numpy, which it reads in place and keeps alive."""
    pyvips = require("pyvips", "reading and writing pictures")
    height, width, channels = image.shape
    wrapped = pyvips.Image.new_from_memory(np.ascontiguousarray(image).data, width, height, channels, "uchar")
    return wrapped.copy(interpretation="srgb" if channels >= 3 else "b-w")


def _decode(path: Path, image: pyvips.Image, form: str) -> NDArray[np.uint8]:
    import pyvips

    try:
        upright = image.copy_memory().autorot()
        pixels = np.asarray(upright.numpy())
    except pyvips.Error as error:
        raise _damaged(path, form, error) from error
    return np.ascontiguousarray(pixels if pixels.ndim == 3 else pixels[..., None])


def _read_bytes(path: Path) -> bytes:
    require_picture(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror or error}") from error


def _refuse_kind(path: Path, image: pyvips.Image, form: str) -> None:
    """What `read_image` does not take."""
    _refuse_form(path, image)
    if image.format == "ushort":
        raise ImageError(
            f"{path} has 16 bits per channel; only 8-bit pictures are taken yet: convert it to 8 bit first"
        )
    if image.hasalpha():
        palette = " in its palette" if image.get_typeof("palette") else ""
        raise ImageError(
            f"{path} ({form}) has an alpha channel{palette} (transparency), which is not taken yet; "
            "remove it first: put the picture on a background"
        )


def _refuse_form(path: Path, image: pyvips.Image) -> None:
    """What no reader takes."""
    pages = image.get("n-pages") if image.get_typeof("n-pages") else 1
    if pages > 1:
        raise ImageError(f"{path} is animated or has several pages ({pages}); give a file with one picture")
    if image.interpretation == "cmyk":
        raise ImageError(f"{path} is a CMYK picture (for printing); convert it to RGB first")
    known = ("srgb", "b-w", "rgb16", "grey16", "rgb", "multiband")
    if image.format not in ("uchar", "ushort") or image.interpretation not in known or image.bands > 4:
        raise ImageError(
            f"{path} holds samples of type {image.format}, {image.bands} per pixel, {image.interpretation}; "
            "convert it to 8-bit RGB first"
        )


def _damaged(path: Path, form: str, error: Exception) -> ImageError:
    return ImageError(
        f"{path} is a damaged or incomplete {form} file ({_describe_failure(error)}); "
        "get it anew, or repair it by saving it again in an editor"
    )


def _describe_failure(error: Exception) -> str:
    """The line in which the decoder itself speaks; libvips wraps it in lines of its own."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith("unable to") and not line.endswith("load error")]
    return telling[0] if telling else "the decoder failed"
