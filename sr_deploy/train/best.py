"""The best validation of a run, the checkpoint that is kept for it, and the end by patience. No torch here."""

from __future__ import annotations

from pathlib import Path

from sr_deploy.run_folder import checkpoint_folder
from sr_deploy.train.recipe import RunRecipe
from sr_deploy.train.run import ValidationResult

_LOWER_IS_BETTER = frozenset({"niqe", "lpips"})


def is_better(result: ValidationResult, best: ValidationResult | None, recipe: RunRecipe) -> bool:
    """Whether a validation beats the best one before it, by the recipe's `best_by`; without that figure none does."""
    new, old = (None if one is None else getattr(one.model, recipe.best_by) for one in (result, best))
    if new is None or old is None:
        return best is None or (old is None and new is not None)
    return bool(new < old if recipe.best_by in _LOWER_IS_BETTER else new > old)


def is_out_of_patience(step: int, best: ValidationResult | None, recipe: RunRecipe) -> bool:
    """Whether the training ends early: the latest validation after `step` updates came `patience` steps after the best.

    It depends on nothing else, so that a run that was killed ends where one that was not ends.
    """
    validated = step - step % recipe.validate_every
    return recipe.patience > 0 and best is not None and validated - best.step >= recipe.patience


def find_best_checkpoint(
    run: Path, recipe: RunRecipe, best: ValidationResult | None, before: str | None
) -> Path | None:
    """The checkpoint of the best validation that is on the disk; None where the recipe does not keep it.

    Args:
        run: the run's folder.
        recipe: whether the best one is kept.
        best: the best validation; its checkpoint may be still to be written.
        before: what this gave before, as the manifest has it; it stands until a better one is written.
    """
    named = [checkpoint_folder(run, best.step)] if best is not None else []
    folders = [*named, run / before] if before is not None else named
    return next((folder for folder in folders if recipe.keep_best and folder.is_dir()), None)
