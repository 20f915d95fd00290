"""The place where an output is furthest from the reference's, cut out of both. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sr_deploy.bundle import WorstPlace
from sr_deploy.imaging.convert import to_image
from sr_deploy.verification.grid import Point

_SIDE = 64
_THIN = 12


@dataclass(frozen=True)
class Crop:
    """A square around the worst place of one comparison."""

    backend: str
    """Who computed, as in `onnxruntime:fp16`."""
    file: str
    """The file that was run."""
    point: Point
    max_abs: float
    """Largest absolute difference in the crop."""
    place: WorstPlace
    """In the whole output."""
    top: int
    """First row of the square in the output."""
    left: int
    """First column of the crop."""
    reference: NDArray[np.uint8]
    """H x W x C, 8 bit: what the reference made of it."""
    candidate: NDArray[np.uint8]
    """H x W x C, 8 bit: what the artifact made of it; values that are not finite are black."""
    lr: NDArray[np.uint8]
    """The input's pixels there, each as a square of `scale` pixels; H x W x C, 8 bit."""


def cut_crop(
    backend: str,
    file: str,
    point: Point,
    place: WorstPlace,
    max_abs: float,
    *,
    pictures: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
) -> Crop:
    """Cut the square around `place`; one at a border is moved inwards, one larger than the output is all of it.

    Args:
        backend: who computed.
        file: what was run.
        point: the input.
        place: where the difference is greatest.
        max_abs: the difference there.
        pictures: the input and the outputs of reference and artifact, N x C x H x W.
    """
    lr, reference, candidate = (picture[place.image : place.image + 1] for picture in pictures)
    height, width = reference.shape[2:]
    scale = height // lr.shape[2]
    top, left = _start(place.y, height), _start(place.x, width)
    window = np.s_[:, :, top : top + _SIDE, left : left + _SIDE]
    return Crop(
        backend=backend,
        file=file,
        point=point,
        max_abs=max_abs,
        place=place,
        top=top,
        left=left,
        reference=to_image(reference[window]),
        candidate=to_image(np.nan_to_num(candidate[window], nan=0, posinf=0, neginf=0)),
        lr=to_image(lr.repeat(scale, axis=2).repeat(scale, axis=3)[window]),
    )


def choose_crops(crops: Iterable[Crop], count: int = 2) -> list[Crop]:
    """The worst of each content, the worst of all first, at most `count`; thin strips only where there is nothing else.

    What there is to see in outputs of one input pixel's width is little, and their errors are like the others'.
    """
    ordered = sorted(crops, key=lambda crop: -crop.max_abs)
    seen = [crop for crop in ordered if min(crop.reference.shape[:2]) >= _THIN] or ordered
    by_content: dict[str, Crop] = {}
    for crop in seen:
        by_content.setdefault(crop.point.content, crop)
    return list(by_content.values())[:count]


def _start(at: int, side: int) -> int:
    return max(0, min(at - _SIDE // 2, side - _SIDE))
