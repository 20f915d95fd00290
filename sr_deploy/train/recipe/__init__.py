"""What a training is, in one TOML file: the recipe, its reading, writing and comparing. No torch here."""

from __future__ import annotations

from sr_deploy.train.recipe.data import DataRecipe, SourceRecipe
from sr_deploy.train.recipe.degradation import (
    DegradationRecipe,
    FinalRecipe,
    KernelRecipe,
    NoiseRecipe,
    ResizeRecipe,
    SharpenRecipe,
    StageRecipe,
)
from sr_deploy.train.recipe.loss import DiscriminatorRecipe, LossRecipe
from sr_deploy.train.recipe.optimizer import EmaRecipe, OptimizerRecipe, PrecisionRecipe, ScheduleRecipe
from sr_deploy.train.recipe.recipe_files import (
    Difference,
    find_differences,
    flatten_tables,
    format_toml,
    load_recipe,
    read_run_recipe,
    write_recipe,
)
from sr_deploy.train.recipe.stage import NetworkRecipe, QuantizationRecipe, Recipe, RunRecipe

__all__ = [
    "DataRecipe",
    "DegradationRecipe",
    "Difference",
    "DiscriminatorRecipe",
    "EmaRecipe",
    "FinalRecipe",
    "KernelRecipe",
    "LossRecipe",
    "NetworkRecipe",
    "NoiseRecipe",
    "OptimizerRecipe",
    "PrecisionRecipe",
    "QuantizationRecipe",
    "Recipe",
    "ResizeRecipe",
    "RunRecipe",
    "ScheduleRecipe",
    "SharpenRecipe",
    "SourceRecipe",
    "StageRecipe",
    "find_differences",
    "flatten_tables",
    "format_toml",
    "load_recipe",
    "read_run_recipe",
    "write_recipe",
]
