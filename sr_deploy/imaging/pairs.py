"""Pairs in folders: which low-resolution picture belongs to which original."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sr_deploy.errors import ImageError, InputError
from sr_deploy.imaging.codec import list_images, read_image, read_training_image
from sr_deploy.imaging.formats import PHOTOGRAPHS
from sr_deploy.imaging.photographs import ImagePair, crop_to_multiple
from sr_deploy.imaging.resize import downscale_bicubic

# What published sets put behind a picture's name: img_001_SRF_4_LR, Canon_001_LR4, babyx4, 0801x4m, 0801_x4, img_GT.
LOW_MARK = re.compile(r"[_-](LR|LQ)\d?$", re.IGNORECASE)
HIGH_MARK = re.compile(r"[_-](HR|GT)$", re.IGNORECASE)
_SCALE = re.compile(r"[_-]?(?:SRF[_-]?|x)(\d+)[mdw]?$", re.IGNORECASE)


@dataclass(frozen=True)
class PairPaths:
    """One picture of a test set."""

    name: str
    """Of the original, without suffix."""
    hr: Path
    lr: Path | None
    """Its low-resolution picture; None: made from the original."""


def find_pairs(hr: Path, lr: Path | None, scale: int) -> list[PairPaths]:
    """Match the pictures of two folders by their names.

    The names may be equal, or differ by what published sets add: `_HR`, `_GT`, `_LR`, `_LQ`, `x4`, `_SRF_4`. Both
    kinds may lie in one folder if they are marked. Low-resolution pictures without an original are left aside.

    Args:
        hr: folder of originals, searched recursively; what is marked as low resolution is left out.
        lr: folder of low-resolution pictures in the same subfolders; None: there are none.
        scale: decides between `babyx2` and `babyx4`.

    Raises:
        InputError: no such folder, no original, or an original without exactly one partner.
    """
    originals = [path for path in list_images(hr) if not LOW_MARK.search(path.stem)]
    if not originals:
        raise InputError(f"{hr} holds no picture to compare with; give a folder of originals ({PHOTOGRAPHS})")
    partners = {} if lr is None else find_partners(originals, hr, lr, scale)
    return [PairPaths(path.stem, path, partners.get(path)) for path in originals]


def find_partners(
    originals: Iterable[Path], hr: Path, lr: Path, scale: int, *, recursive: bool = True
) -> dict[Path, Path]:
    """The low-resolution picture of each original, by names as `find_pairs`.

    Args:
        originals: files in `hr`.
        hr: folder of originals.
        lr: folder of low-resolution pictures in the same subfolders.
        scale: decides between `babyx2` and `babyx4`.
        recursive: whether subfolders count.

    Raises:
        InputError: no such folder, or an original without exactly one partner.
    """
    small: dict[tuple[Path, bool, str], list[Path]] = {}
    for path in list_images(lr):
        if not HIGH_MARK.search(path.stem) and (recursive or path.parent == lr):
            for bare, name in ((False, path.stem), (True, strip_marks(path))):
                small.setdefault((path.parent.relative_to(lr), bare, name), []).append(path)
    return {path: _find_partner(path, path.parent.relative_to(hr), small, lr, scale) for path in originals}


def read_pair(paths: PairPaths, scale: int, channels: int) -> ImagePair:
    """Decode one pair, or make the low-resolution picture as the papers do (MATLAB's bicubic, antialiased).

    For an RGB network gray pictures become RGB as in the papers' scripts, alpha is left out and 16 bit cut to 8; a gray
    network takes gray pictures only. Originals are cropped at the right and bottom to whole low-resolution pixels.

    Raises:
        ImageError: a picture cannot be read, or the two do not belong together.
    """
    hr = _read(paths.hr, channels)
    if paths.lr is not None:
        lr = _read(paths.lr, channels)
        require_fit(paths.hr, hr.shape, paths.lr, lr.shape, scale)
        return ImagePair(lr, np.ascontiguousarray(hr[: lr.shape[0] * scale, : lr.shape[1] * scale]))
    if min(hr.shape[:2]) < scale:
        raise ImageError(
            f"{paths.hr} ({hr.shape[0]}x{hr.shape[1]}, HxW) is too small to be shrunk by {scale}; leave it out"
        )
    hr = crop_to_multiple(hr, scale)
    return ImagePair(downscale_bicubic(hr, scale), hr)


def require_fit(hr: Path, hr_shape: Sequence[int], lr: Path, lr_shape: Sequence[int], scale: int) -> None:
    """Refuse a low-resolution picture that is not of its original; shapes begin with height and width.

    Raises:
        ImageError: a side of the original is not `scale` times that of the other, or up to `scale - 1` pixels more.
    """
    if not all(0 <= high - low * scale < scale for high, low in zip(hr_shape[:2], lr_shape[:2], strict=True)):
        raise ImageError(
            f"{hr} ({hr_shape[0]}x{hr_shape[1]}, HxW) is not {scale} times {lr} ({lr_shape[0]}x{lr_shape[1]}), but the "
            f"network enlarges by {scale}; give pairs of that scale"
        )


def _find_partner(
    hr: Path, place: Path, small: Mapping[tuple[Path, bool, str], Sequence[Path]], folder: Path, scale: int
) -> Path:
    """By equal names first, then by what is left of them without marks."""
    stem = HIGH_MARK.sub("", hr.stem)
    bare = _SCALE.sub("", stem)
    for strip, wanted in ((False, hr.stem), (True, stem), (True, bare)):
        found = [path for path in small.get((place, strip, wanted), ()) if path != hr]
        of_scale = [path for path in found if _scale_mark(path) == scale]
        found = of_scale if len(found) > 1 and of_scale else found
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(path.name for path in found)
            raise InputError(f"{hr.name} has more than one partner in {folder}: {names}; keep one of them there")
    raise InputError(
        f"{hr.name} has no low-resolution picture in {folder}: {hr.stem}, {bare}x{scale} or {bare}_LR would be found; "
        "put it there, or take the original away"
    )


def strip_marks(path: Path) -> str:
    """The name without what published sets put behind it."""
    return _SCALE.sub("", HIGH_MARK.sub("", LOW_MARK.sub("", path.stem)))


def _scale_mark(path: Path) -> int | None:
    mark = _SCALE.search(LOW_MARK.sub("", path.stem))
    return int(mark.group(1)) if mark else None


def _read(path: Path, channels: int) -> NDArray[np.uint8]:
    return read_image(path, channels=1) if channels == 1 else read_training_image(path)
