"""The pictures that a recipe trains and validates on, opened as it needs them."""

from __future__ import annotations

from collections.abc import Iterable

from sr_deploy.arch.registry import input_multiple
from sr_deploy.errors import RecipeError
from sr_deploy.measure.quality import SSIM_WINDOW
from sr_deploy.train.headers import FileHeader
from sr_deploy.train.paired import ImageFiles, validation_files
from sr_deploy.train.recipe import Recipe
from sr_deploy.train.training_images import TrainingImages


def list_training_images(recipe: Recipe, files: ImageFiles) -> TrainingImages:
    """The images that a recipe trains on; none is read yet."""
    return TrainingImages(
        files.originals,
        partners=files.partners,
        scale=recipe.scale,
        min_side=recipe.degradation.min_side() if recipe.degradation is not None else recipe.data.patch_size,
        multiple=1 if recipe.degradation is not None else recipe.scale,
        cache_gib=recipe.data.cache_gib,
        with_lr=recipe.degradation is None,
        channels=recipe.channels,
    )


def open_training_images(recipe: Recipe, files: ImageFiles, known: Iterable[FileHeader] = ()) -> TrainingImages:
    """The images that a recipe trains on; their headers are read.

    Args:
        recipe: what to train.
        files: as `training_files` finds them.
        known: headers as they were kept.

    Raises:
        RecipeError: the patches do not fit the network.
        InputError: none of the images can be used.
    """
    multiple = recipe.scale * input_multiple(recipe.arch_spec())
    if recipe.data.patch_size % multiple:
        raise RecipeError(
            f"data.patch_size = {recipe.data.patch_size} does not fit {recipe.arch_spec().title()}; "
            f"give a multiple of {multiple}"
        )
    files.say()
    photographs = list_training_images(recipe, files)
    photographs.examine(threads=recipe.data.workers, known=known)
    return photographs


def open_validation_images(recipe: Recipe) -> TrainingImages:
    """The photographs to validate on; none is read yet.

    Raises:
        InputError: there are none.
        RecipeError: an unknown name.
    """
    multiple = recipe.scale * input_multiple(recipe.arch_spec())
    files = validation_files(recipe)
    files.say()
    return TrainingImages(
        files.originals,
        partners=files.partners,
        scale=recipe.scale,
        min_side=SSIM_WINDOW + 2 * recipe.scale,
        multiple=multiple,
        cache_gib=recipe.data.cache_gib,
        channels=recipe.channels,
    )
