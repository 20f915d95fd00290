"""Crops of real photographs: what ranges are measured on, and what the budget is checked on.

Photographs are taken by their content, not by their names: sorted by hash, every fourth is held out. Low-resolution
crops are made from high-resolution ones as the papers do. Nothing but the crop in hand is kept in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import ImageError, InputError
from sr_deploy.files import sha256_of
from sr_deploy.imaging.codec import bundled_photographs, list_images, read_training_image
from sr_deploy.imaging.formats import PHOTOGRAPHS
from sr_deploy.imaging.photographs import ImagePair, draw_corner
from sr_deploy.imaging.resize import downscale_bicubic
from sr_deploy.measure.quality import LUMA_WEIGHTS

_HELD_OUT = 4
"""One photograph in so many is held out."""
_GRAY = np.array(LUMA_WEIGHTS)


@dataclass(frozen=True)
class CalibrationImages:
    """A folder of photographs, divided."""

    calibration: tuple[Path, ...]
    """Ranges, biases and the ranking of layers come from these."""
    held_out: tuple[Path, ...]
    """The budget is checked on these. The same as `calibration` where there is only one photograph."""
    hashes: tuple[str, ...]
    """SHA-256 of all, sorted."""
    source: str
    """For people: the name of the folder, or `bundled photographs`; no path, since reports travel."""


def list_calibration_images(folder: Path | None) -> list[Path]:
    """The pictures of a folder, or the bundled photographs; none of them is read.

    Raises:
        InputError: no such folder, or no picture in it.
    """
    paths = list(bundled_photographs().values()) if folder is None else list_images(folder)
    if not paths:
        raise InputError(f"{folder} holds no picture to calibrate with; give a folder of photographs ({PHOTOGRAPHS})")
    return paths


def find_calibration_images(folder: Path | None) -> CalibrationImages:
    """Take the photographs of a folder, or the bundled ones.

    Raises:
        InputError: no such folder, or no picture in it.
    """
    by_hash = {sha256_of(path): path for path in list_calibration_images(folder)}  # copies count once
    hashes = sorted(by_hash)
    held = [digest for index, digest in enumerate(hashes) if index % _HELD_OUT == _HELD_OUT - 1] or hashes[-1:]
    rest = [digest for digest in hashes if digest not in held] or held
    source = "bundled photographs" if folder is None else folder.resolve().name
    return CalibrationImages(
        tuple(by_hash[digest] for digest in rest), tuple(by_hash[digest] for digest in held), tuple(hashes), source
    )


@dataclass(frozen=True)
class CropShape:
    """What crops are cut for."""

    side: int
    """Of the low-resolution crop in pixels."""
    scale: int
    """Output pixels per input pixel along each side."""
    channels: int
    """3, or 1 for luma."""
    seed: int
    """With the stream and the number of a crop it decides where the crop lies."""


def cut_crops(paths: Sequence[Path], count: int, shape: CropShape, stream: int) -> Iterator[ImagePair]:
    """Give `count` crops, one photograph after the other, again from the first when all have had their turn.

    Args:
        paths: of the photographs; those smaller than a crop are passed over.
        count: how many.
        shape: of the crops.
        stream: which kind of crops: each kind lies elsewhere.

    Raises:
        InputError: all photographs are too small.
        ImageError: one cannot be read.
    """
    side = shape.side * shape.scale
    small: set[Path] = set()
    given = turn = 0
    while given < count:
        if len(small) == len(paths):
            raise InputError(
                f"no photograph to calibrate with is as large as {side}x{side}; give larger ones, or a smaller "
                "crop_size in the spec's [int8]"
            )
        path = paths[turn % len(paths)]
        turn += 1
        if path in small:
            continue
        random = np.random.Generator(np.random.Philox(key=[shape.seed, stream], counter=[0, 0, 0, given]))
        image = _read(path, shape.channels)
        if min(image.shape[:2]) < side:
            small.add(path)
            continue
        top, left = draw_corner(image, side, random)
        hr = np.ascontiguousarray(image[top : top + side, left : left + side])
        given += 1
        yield ImagePair(downscale_bicubic(hr, shape.scale), hr)


def _read(path: Path, channels: int) -> NDArray[np.uint8]:
    try:
        image = read_training_image(path)
    except ImageError as error:
        raise ImageError(f"{error} (while calibrating INT8; take it out of the folder)") from error
    if channels == 1:
        gray: NDArray[np.uint8] = np.rint(image @ _GRAY).astype(np.uint8)[..., None]
        return gray
    return image
