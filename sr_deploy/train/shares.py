"""Which share of the patches each source of a run has, and each scale, by the headers that the run keeps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from sr_deploy.errors import InputError
from sr_deploy.train.headers import FileHeader
from sr_deploy.train.mixture import WHOLE, Entry, build_mixture
from sr_deploy.train.paired import ImageFiles
from sr_deploy.train.recipe import Recipe
from sr_deploy.train.recipe_images import list_training_images
from sr_deploy.train.training_images import BUNDLED_NAME, TrainingSource

_LONGEST_SIDE = 2**31


class Share(NamedTuple):
    """Of one source at one scale."""

    source: str
    """Its folder, or a word for the bundled photographs."""
    scale: str
    """How far originals are shrunk before patches are cut."""
    pictures: int
    share: float
    """Of the patches, 0 to 1."""


def find_shares(recipe: Recipe, headers: Sequence[FileHeader]) -> list[Share]:
    """The shares of all sources and scales, each source's greatest first. No picture is opened.

    Args:
        recipe: has weights, scales and the side that is cut.
        headers: of the pictures, as the run keeps them.

    Raises:
        InputError: they are not of the recipe's sources, no picture is as large as they say, or none of a source can be
            used.
    """
    if any(max(one.width, one.height) > _LONGEST_SIDE for one in headers):
        raise InputError(f"a picture has sides of more than {_LONGEST_SIDE} pixels by the list that the run keeps")
    sources = _part_by_source(recipe, headers)
    images = list_training_images(recipe, ImageFiles([path for source in sources for path in source.paths]))
    images.headers = list(headers)
    mixture = build_mixture(recipe, images, sources)
    pictures: Counter[tuple[int, str]] = Counter()
    weights: defaultdict[tuple[int, str], float] = defaultdict(float)
    number_of = [number for number, source in enumerate(sources) for _ in source.paths]
    alike = [
        Entry(number_of[index], index, WHOLE, 1.0)
        for index in range(len(headers))
        if images.find_size(index) is not None
    ]
    for entry in mixture.entries if mixture is not None else alike:
        pictures[entry.source, entry.scale.title] += 1
        weights[entry.source, entry.scale.title] += entry.share
    total = sum(weights.values())
    ordered = sorted(weights, key=lambda key: (key[0], -weights[key]))
    return [Share(sources[key[0]].name, key[1], pictures[key], weights[key] / total) for key in ordered]


def _part_by_source(recipe: Recipe, headers: Sequence[FileHeader]) -> list[TrainingSource]:
    """The sources with their pictures, which are kept in the order of the sources."""
    data = recipe.data
    sources = [TrainingSource(one.folder, (), one.weight, one.scaled) for one in data.source]
    sources = sources or [TrainingSource(data.folder or BUNDLED_NAME, ())]
    parts: list[dict[Path, None]] = [{} for _ in sources]
    number = 0
    for path in (Path(one.path) for one in headers):
        # A folder may lie in another one: its pictures come twice then.
        while sources[number].name != BUNDLED_NAME and (
            not path.is_relative_to(sources[number].name) or path in parts[number]
        ):
            number += 1
            if number == len(sources):
                raise InputError(f"{path} was trained on last, and lies in none of the recipe's folders")
        parts[number][path] = None
    return [replace(source, paths=tuple(part)) for source, part in zip(sources, parts, strict=True)]
