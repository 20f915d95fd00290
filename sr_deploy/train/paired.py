"""Which files a recipe trains and validates on, and which low-resolution pictures belong to them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sr_deploy.errors import InputError
from sr_deploy.imaging.pair_layouts import split_folder
from sr_deploy.imaging.pairs import find_partners
from sr_deploy.train.recipe import Recipe
from sr_deploy.train.training_images import TrainingSource, training_sources, validation_paths

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFiles:
    """Originals, some or all of them with their low resolution."""

    originals: Sequence[Path]
    partners: Mapping[Path, Path] = field(default_factory=dict)
    """Low-resolution pictures by original; of the others low resolution is made."""
    note: str = ""
    """What is to be said of them."""
    sources: Sequence[TrainingSource] = ()
    """Where the originals of a training are from, in their order, without low-resolution pictures."""

    def say(self) -> None:
        """Log the note, if there is one."""
        if self.note:
            _LOG.info("%s", self.note)


def training_files(recipe: Recipe) -> ImageFiles:
    """The files to train on. With a degradation low-resolution pictures are left aside.

    Raises:
        InputError: no such folder, no image in it, or an original without exactly one partner.
        RecipeError: no such bundled photograph.
    """
    data = recipe.data
    listed = training_sources(data)
    folders: list[str | None] = [source.folder for source in data.source]
    folders = folders or [data.folder]
    found = [
        _split(folder, data.lr_folder, source.paths, recipe.scale)
        for folder, source in zip(folders, listed, strict=True)
    ]
    sources = [replace(source, paths=tuple(one.originals)) for source, one in zip(listed, found, strict=True)]
    originals = [path for source in sources for path in source.paths]
    noted = [source.name for source, one in zip(sources, found, strict=True) if one.note]
    if recipe.degradation is not None and noted:
        note = f"{', '.join(noted)} holds low-resolution pictures too: left aside, the recipe makes its own"
        return ImageFiles(originals, {}, note, sources)
    partners = {original: partner for one in found for original, partner in one.partners.items()}
    return ImageFiles(originals, partners, "; ".join(one.note for one in found if one.note), sources)


def validation_files(recipe: Recipe) -> ImageFiles:
    """The files to validate on; raises as `training_files`."""
    data = recipe.data
    return _split(data.validation_folder, data.validation_lr_folder, validation_paths(data), recipe.scale)


def _split(folder: str | None, lr_folder: str | None, paths: Sequence[Path], scale: int) -> ImageFiles:
    if folder is None:
        return ImageFiles(paths)
    hr = Path(folder)
    if lr_folder is not None:
        lr = Path(lr_folder)
        inside = lr != hr and lr.is_relative_to(hr)
        originals = [path for path in paths if not (inside and path.is_relative_to(lr))]
        partners = find_partners(originals, hr, lr, scale)
        return ImageFiles(originals, partners, f"{len(partners)} pairs: originals of {hr}, low resolution of {lr}")
    found = split_folder(hr, paths, scale)
    if not found.left_aside:
        return ImageFiles(paths)
    if not found.originals:
        raise InputError(f"{hr} holds low-resolution pictures alone; give a folder that has their originals")
    made = len(found.originals) - len(found.partners)
    rest = f"; low resolution of {made} others is made by bicubic interpolation" if made else ""
    return ImageFiles(
        found.originals,
        found.partners,
        f"{hr} holds low-resolution pictures beside their originals: {len(found.partners)} pairs of x{scale}{rest}",
    )
