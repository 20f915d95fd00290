"""Which picture a patch is cut from, and at which scale: sources by weight, pictures alike or by their area.

Draws come from the generator that is handed in, so that the seed and the step decide them, as all others. No shrunk
picture is made: a patch is shrunk as it is cut, to the bits that the whole picture would have there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sr_deploy.errors import InputError
from sr_deploy.imaging.resize import downscale_bicubic, shrink_bicubic
from sr_deploy.train.originals import Samples
from sr_deploy.train.recipe import Recipe
from sr_deploy.train.training_images import TrainingImages, TrainingSource

_MARGIN = 2
"""Low-resolution pixels around a patch that its own are computed from."""


@dataclass(frozen=True)
class PictureScale:
    """How far a picture is shrunk before a patch is cut."""

    factor: float = 1.0
    """Above 0, at most 1; where there is a `short_side`, that alone counts."""
    short_side: int | None = None
    """Pixels of the shorter side of the shrunk picture."""

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.factor:.3g}" if self.short_side is None else f"short side {self.short_side}"

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the shrunk picture, fractions cut off, as published."""
        if self.short_side is None:
            return int(height * self.factor), int(width * self.factor)
        short = min(height, width)
        return height * self.short_side // short, width * self.short_side // short


WHOLE = PictureScale()
"""The picture as it is."""


@dataclass(frozen=True)
class Entry:
    """One picture at one scale."""

    source: int
    """Number of its source, from 0."""
    picture: int
    """Number of its file among those of all sources."""
    scale: PictureScale
    share: float
    """Of the patches, relative to the other entries."""


class Mixture:
    """Every picture at every scale that patches are cut from."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        """Of at least one entry whose share is above 0."""
        self.entries = tuple(entries)
        self._ends = np.cumsum([entry.share for entry in entries])

    def draw(self, random: np.random.Generator) -> Entry:
        """An entry, by its share."""
        found = int(np.searchsorted(self._ends, random.random() * self._ends[-1], side="right"))
        return self.entries[min(found, len(self.entries) - 1)]


def build_mixture(recipe: Recipe, photographs: TrainingImages, sources: Sequence[TrainingSource]) -> Mixture | None:
    """What the patches of a recipe are cut from; None: every picture alike, as it is.

    Args:
        recipe: has weights, scales and the side that is cut.
        photographs: of all sources, one after the other; their headers are read.
        sources: where they are from.

    Raises:
        InputError: a source has no picture that can be used.
    """
    data = recipe.data
    shrunk = [PictureScale(factor) for factor in data.scales]
    shrunk += [PictureScale(short_side=data.short_side)] if data.short_side is not None else []
    if data.draw == "picture" and shrunk == [WHOLE] and all(source.weight is None for source in sources):
        return None
    side = recipe.degradation.canvas if recipe.degradation is not None else data.patch_size
    if photographs.has_pairs and shrunk != [WHOLE]:
        raise InputError(
            f"data.scales = {list(data.scales)} shrinks originals whose low resolution is given; leave it at [1.0], "
            "and data.short_side out"
        )
    entries: list[Entry] = []
    first = 0
    for number, source in enumerate(sources):
        pictures = range(first, first + len(source.paths))
        first = pictures.stop
        shares: dict[tuple[int, PictureScale], float] = {}
        for picture in pictures:
            if (size := photographs.find_size(picture)) is not None:
                counts = count_squares(size, shrunk if source.scaled else [WHOLE], side)
                alike = {scale: 1 / len(counts) for scale in counts}
                shares |= {(picture, scale): n for scale, n in (counts if data.draw == "area" else alike).items()}
        if not shares:
            raise InputError(
                f"none of the {len(pictures)} images in {source.name} can be used: all are unreadable, or at "
                f"each of data.scales smaller than the square that is cut; patches need at least {side}x{side} pixels: "
                "give larger images, or leave the source out"
            )
        unit = 1.0 if source.weight is None else source.weight / sum(shares.values())
        entries += [Entry(number, picture, scale, unit * share) for (picture, scale), share in shares.items()]
    return Mixture(entries)


def count_squares(size: tuple[int, int], scales: Sequence[PictureScale], side: int) -> dict[PictureScale, int]:
    """How many squares a picture has at each scale, half a side from one to the next, the last ones at the border.

    Scales at which it would be smaller than the square are left out, but for the picture as it is.
    """
    step = max(side // 2, 1)
    counts = {}
    for scale in scales:
        sides = scale.size(*size)
        if scale == WHOLE or (min(sides) >= side and sides < size):
            counts[scale] = math.prod(math.ceil(max(length - side, 0) / step) + 1 for length in sides)
    return counts


def cut_shrunk(
    hr: Samples, picture_scale: PictureScale, side: int, scale: int | None, random: np.random.Generator
) -> tuple[Samples, Samples]:
    """A square anywhere in a shrunk picture, and its place in the low resolution of that picture.

    Args:
        hr: the picture, H x W x C, 8 or 16 bit.
        picture_scale: how far it is shrunk, to no less than the square.
        side: of the square in pixels, a multiple of `scale`.
        scale: from low to high resolution, which is made by the papers' bicubic; None: none is made.
        random: draws the place.

    Returns:
        Low resolution, 0 x 0 x C without a scale, and high resolution.
    """
    size = picture_scale.size(*hr.shape[:2])
    step = scale or 1
    corner = [int(random.integers((length - side) // step + 1)) * step for length in size]
    if scale is None:
        rows, columns = (range(start, start + side) for start in corner)
        return np.zeros((0, 0, hr.shape[2]), hr.dtype), shrink_bicubic(hr, size, rows, columns)
    reach = _MARGIN * scale
    starts = [max(start - reach, 0) for start in corner]
    ends = [min(start + side + reach, length - length % scale) for start, length in zip(corner, size, strict=True)]
    around = shrink_bicubic(hr, size, *(range(start, end) for start, end in zip(starts, ends, strict=True)))
    top, left = (start - begin for start, begin in zip(corner, starts, strict=True))
    lr = downscale_bicubic(around, scale)[top // scale :, left // scale :][: side // scale, : side // scale]
    return lr, around[top : top + side, left : left + side]
